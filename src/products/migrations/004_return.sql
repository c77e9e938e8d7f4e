-- As before, but a stock that was set to its most after the sale stays there: what comes back above it would undo the
-- cancellation, and with it the expiry of every order that falls due in the same minute.
create or replace function products.return_stock(ids uuid[], quantities integer[]) returns void
language plpgsql security definer set search_path = '' as $$
declare
  line record;
begin
  for line in select l.id, l.quantity from unnest(ids, quantities) l (id, quantity) order by l.id loop
    update products.stock set on_hand = least(stock.on_hand::bigint + line.quantity, 1000000000)
    where stock.product_id = line.id and line.quantity >= 1;
    if not found then
      raise 'no stock to return % of % to', line.quantity, line.id using errcode = 'invalid_parameter_value';
    end if;
  end loop;
end $$;
