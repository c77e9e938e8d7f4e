-- Whether a cart is still as its owner was to be reminded of it: the mail may have waited while they ordered, or changed it.
create function orders.cart_waits(buyer uuid) returns boolean
language sql stable security definer set search_path = '' as $$
  select exists (select from orders.cart c
                   join orders.cart_item i on i.user_id = c.user_id
                  where c.user_id = buyer and c.version = c.reminded_version)
$$;
grant execute on function orders.cart_waits to :"notifications";

-- As before, with whether an order has been paid: what was paid for one that is cancelled is due back.
create or replace function orders.tell(event_subject text, order_ids uuid[]) returns void language sql
begin atomic
  insert into orders.outbox (subject, payload)
  select event_subject, row_to_json(event)
    from orders.order o,
         lateral (select o.id as "orderId", o.user_id as "userId", o.email, o.currency, o.total, o.paid_at is not null as paid,
                         (select json_agg(line order by line."productId")
                            from (select l.product_id as "productId", l.sku, l.name, l.price, l.quantity
                                    from orders.order_line l where l.order_id = o.id) line) as lines) event
   where o.id = any (order_ids)
   order by o.id;
end;
