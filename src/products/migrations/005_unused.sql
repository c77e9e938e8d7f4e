-- Tells of each of the next `batch` files after `past`, in the order of their hashes, that nothing refers to and whose removal was due
-- an hour ago, since its message failed or was never sent. The last hash looked at, null at the end, and how many were told.
-- In parts, by two looks at an index for each file: over a million at once it took 4.4 s, more than a statement may for three.
-- The one without parts is for code before this.
create function products.tell_unused(past text, batch int, out last text, out told int)
language sql security definer set search_path = '' as $$
  with page as (
    select o.hash, o.used_at from products.object o where o.hash > past order by o.hash limit batch
  ), unused as (
    -- As a value for each row; as a condition it would be a join with everything in use.
    select s.hash, s.used_at from page s
     where s.used_at < now() - interval '25 hours'
       and not (select exists (select from products.object_in_use u where u.hash = s.hash))
  ), event as (
    insert into products.outbox (subject, payload)
    select 'msg.product.image_changed', jsonb_build_object('productId', null, 'image', null,
             'replaced', jsonb_build_object('large', u.hash, 'small', u.hash),
             'at', to_char(u.used_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
      from unused u
    returning 1
  )
  select (select max(s.hash) from page s), (select count(*)::int from event)
$$;
grant execute on function products.tell_unused(text, int) to :"notifications";
