-- Sets the quantity of a product in a cart. `known`: there is such a product; `put`: there was room for it. A function, since
-- lines must be counted by a statement that begins once the cart is locked: else several at once each find the last place free.
create function orders.put_cart_item(
  buyer uuid, product uuid, wanted int, most int, out known boolean, out put boolean
) language plpgsql as $$
declare
  is_new boolean;
begin
  known := exists (select from products.quote(array[product]));
  put := false;
  if not known then
    return;
  end if;
  insert into orders.cart (user_id) values (buyer) on conflict (user_id) do nothing;
  is_new := found;
  perform from orders.cart c where c.user_id = buyer for update;
  if (select count(*) from orders.cart_item i where i.user_id = buyer and i.product_id <> product) >= most then
    return;
  end if;
  if not is_new then
    update orders.cart c set version = c.version + 1, updated_at = now() where c.user_id = buyer;
  end if;
  insert into orders.cart_item (user_id, product_id, quantity) values (buyer, product, wanted)
    on conflict (user_id, product_id) do update set quantity = excluded.quantity;
  put := true;
end $$;
grant execute on function orders.put_cart_item to :"orders";
