-- Jobs, which the notifications role runs.

-- Live products with at most `threshold` of them left, the scarcest first, and how many there are.
create function products.low_stock(threshold int default 5, most int default 20) returns jsonb
language sql stable security definer set search_path = '' as $$
  with low as (
    select p.sku, p.name, s.on_hand as stock
      from products.stock s join products.product p on p.id = s.product_id
     where s.on_hand <= threshold and p.deleted_at is null
  )
  select jsonb_build_object(
    'count', (select count(*) from low),
    'products', coalesce((select jsonb_agg(l) from (select * from low order by stock, sku limit most) l), '[]'))
$$;

-- Has the files removed that nothing refers to, and whose own message never came or was lost: how many there are. Each
-- such message brings the removal of all that are due, so one is told, of no product.
create function products.tell_unused() returns int
language sql security definer set search_path = '' as $$
  with unused as (
    select o.hash, o.used_at from products.object o
     where o.used_at < now() - interval '25 hours'
       and not exists (select from products.object_in_use u where u.hash = o.hash)
  ), told as (
    insert into products.outbox (subject, payload)
    select 'msg.product.image_changed', jsonb_build_object('productId', null, 'image', null,
             'replaced', jsonb_build_object('large', u.hash, 'small', u.hash),
             'at', to_char(u.used_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
      from unused u limit 1
  )
  select count(*)::int from unused
$$;

grant usage on schema products to :"notifications";
grant execute on function products.low_stock, products.tell_unused to :"notifications";
