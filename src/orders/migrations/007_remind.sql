-- Asks once for each order that is not paid yet and has not run out: after a while without the job, one that is due to expire
-- in the same minute is not told that its items are set aside.
create or replace function orders.remind_unpaid(older_than interval default '20 minutes', batch int default 500) returns int
language plpgsql security definer set search_path = '' as $$
declare
  reminded uuid[];
begin
  with due as (
    select o.id from orders.order o
     where o.status = 'pending' and o.reminded_at is null
       and o.created_at < now() - older_than and o.created_at > now() - interval '30 minutes'
     order by o.created_at limit batch for update skip locked
  ), marked as (
    update orders.order o set reminded_at = now() from due where o.id = due.id returning o.id
  )
  select array_agg(m.id) into reminded from marked m;
  if reminded is null then
    return 0;
  end if;
  perform orders.tell('msg.order.unpaid', reminded);
  return cardinality(reminded);
end $$;

-- Whether an order can still be paid: what was told of it may have waited for the mail server.
create function orders.awaits_payment(order_id uuid) returns boolean
language sql stable security definer set search_path = '' as $$
  select exists (select from orders.order o where o.id = order_id and o.status = 'pending')
$$;
grant execute on function orders.awaits_payment to :"notifications";
