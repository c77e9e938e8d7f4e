create index order_event_at_idx on orders.order_event (at);

-- For GET /audit, which auth serves: what happened to orders before a position, newest first; of one buyer, or of all.
create function orders.audit(before_at timestamptz, before_id text, most int, of_user uuid)
returns table (id text, at timestamptz, event text, user_id uuid, actor uuid, detail jsonb)
language plpgsql stable security definer set search_path = '' as $$
#variable_conflict use_column
begin
  if of_user is null then
    return query
      select e.order_id || ':' || e.status, e.at, case e.status when 'pending' then 'order.placed' else 'order.' || e.status end,
             o.user_id, e.actor, jsonb_build_object('orderId', o.id)
        from orders.order_event e join orders.order o on o.id = e.order_id
       where e.at <= before_at and (e.at, (e.order_id || ':' || e.status) collate "C") < (before_at, before_id collate "C")
       order by e.at desc, (e.order_id || ':' || e.status) collate "C" desc
       limit most;
  else
    return query
      select e.order_id || ':' || e.status, e.at, case e.status when 'pending' then 'order.placed' else 'order.' || e.status end,
             o.user_id, e.actor, jsonb_build_object('orderId', o.id)
        from orders.order o join orders.order_event e on e.order_id = o.id
       where o.user_id = of_user
         and (e.at, (e.order_id || ':' || e.status) collate "C") < (before_at, before_id collate "C")
       order by e.at desc, (e.order_id || ':' || e.status) collate "C" desc
       limit most;
  end if;
end $$;
grant usage on schema orders to :"auth";
grant execute on function orders.audit to :"auth";
