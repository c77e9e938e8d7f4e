-- As before, with the moment at which an order is locked, instead of that at which the transaction began: of two changes at
-- once the one that waits for the other may have begun earlier, and its history would read backwards.
create or replace function orders.move(order_ids uuid[], target text, by_user uuid) returns setof uuid language plpgsql as $$
declare
  origins text[] := case target
    when 'paid' then array['pending']
    when 'shipped' then array['paid']
    when 'delivered' then array['shipped']
    when 'cancelled' then array['pending', 'paid']
    when 'expired' then array['pending']
  end;
  moved uuid[];
begin
  with changed as (
    update orders.order o
       set status = target,
           paid_at = case target when 'paid' then clock_timestamp() else o.paid_at end,
           shipped_at = case target when 'shipped' then clock_timestamp() else o.shipped_at end,
           delivered_at = case target when 'delivered' then clock_timestamp() else o.delivered_at end,
           cancelled_at = case target when 'cancelled' then clock_timestamp() else o.cancelled_at end,
           expired_at = case target when 'expired' then clock_timestamp() else o.expired_at end
     where o.id = any (order_ids) and o.status = any (origins)
    returning o.id, greatest(o.paid_at, o.shipped_at, o.delivered_at, o.cancelled_at, o.expired_at) as at
  ), noted as (
    insert into orders.order_event (order_id, status, actor, at) select c.id, target, by_user, c.at from changed c
  )
  select array_agg(c.id) into moved from changed c;
  if moved is null then
    return;
  end if;
  if target in ('cancelled', 'expired') then
    perform products.return_stock(array_agg(l.product_id order by l.product_id), array_agg(l.quantity order by l.product_id))
       from (select product_id, sum(quantity)::int as quantity
               from orders.order_line where order_id = any (moved) group by product_id) l;
  end if;
  perform orders.tell('msg.order.' || target, moved);
  return query select unnest(moved);
end $$;
