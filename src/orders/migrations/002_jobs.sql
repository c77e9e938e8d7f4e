alter table orders.cart
  -- The version that its owner was last reminded of.
  add column reminded_version bigint;

alter table orders.order add column feedback_at timestamptz;
create index order_delivered_idx on orders.order (delivered_at) where status = 'delivered' and feedback_at is null;

-- More jobs, which the notifications role runs; each returns how many rows it changed.

-- Tells of carts that nobody has touched for a while, once for each version, with the lines that can still be had. What
-- lies longer than another week is old news, as after an upgrade. The subject is one of orders, whose events may be told.
create function orders.remind_carts(older_than interval default '4 hours', batch int default 500) returns int
language plpgsql security definer set search_path = '' as $$
declare
  owners uuid[];
begin
  with due as (
    select c.user_id from orders.cart c
     where c.updated_at < now() - older_than and c.updated_at > now() - older_than - interval '7 days'
       and c.reminded_version is distinct from c.version
       and exists (select from orders.cart_item i where i.user_id = c.user_id)
     order by c.updated_at limit batch for update skip locked
  ), marked as (
    update orders.cart c set reminded_version = c.version from due where c.user_id = due.user_id returning c.user_id
  )
  select array_agg(m.user_id) into owners from marked m;
  if owners is null then
    return 0;
  end if;
  insert into orders.outbox (subject, payload)
  select 'msg.order.cart_abandoned', json_build_object('userId', l.user_id, 'lines', json_agg(l.line))
    from (select i.user_id, json_build_object('productId', q.product_id, 'sku', q.sku, 'name', q.name,
                   'quantity', i.quantity, 'price', q.price, 'currency', q.currency) as line
            from orders.cart_item i
            join products.quote(array(select product_id from orders.cart_item where user_id = any (owners))) q
              on q.product_id = i.product_id and q.on_hand >= i.quantity
           where i.user_id = any (owners)
           order by i.user_id, i.added_at, i.product_id) l
   group by l.user_id;
  return cardinality(owners);
end $$;

-- Asks for an opinion of each order once, a week after its delivery; not of those that were delivered long before.
create function orders.ask_feedback(older_than interval default '7 days', batch int default 500) returns int
language plpgsql security definer set search_path = '' as $$
declare
  asked uuid[];
begin
  with due as (
    select o.id from orders.order o
     where o.status = 'delivered' and o.feedback_at is null
       and o.delivered_at < now() - older_than and o.delivered_at > now() - older_than - interval '7 days'
     order by o.delivered_at limit batch for update skip locked
  ), marked as (
    update orders.order o set feedback_at = now() from due where o.id = due.id returning o.id
  )
  select array_agg(m.id) into asked from marked m;
  if asked is null then
    return 0;
  end if;
  perform orders.tell('msg.order.feedback_due', asked);
  return cardinality(asked);
end $$;

-- For the digest of the staff: orders placed from `since` until before `until`, by currency, and how many wait to be sent.
create function orders.digest(since timestamptz, until timestamptz) returns jsonb
language sql stable security definer set search_path = '' as $$
  select jsonb_build_object(
    'placed', coalesce((
      select jsonb_agg(s order by s.currency)
        from (select o.currency, count(*) as orders, sum(o.total) as total from orders.order o
               where o.created_at >= since and o.created_at < until and o.status not in ('cancelled', 'expired')
               group by o.currency) s), '[]'),
    'toShip', (select count(*) from orders.order o where o.status = 'paid'))
$$;
create index order_created_idx on orders.order using brin (created_at);
create index order_paid_idx on orders.order (paid_at) where status = 'paid';

grant execute on function orders.remind_carts, orders.ask_feedback, orders.digest to :"notifications";
