-- As products.tell_unused, for avatars.
create function auth.tell_unused(past text, batch int, out last text, out told int)
language sql security definer set search_path = '' as $$
  with page as (
    select o.hash, o.used_at from auth.object o where o.hash > past order by o.hash limit batch
  ), unused as (
    -- As a value for each row; as a condition it would be a join with everything in use.
    select s.hash, s.used_at from page s
     where s.used_at < now() - interval '25 hours'
       and not (select exists (select from auth.object_in_use u where u.hash = s.hash))
  ), event as (
    insert into auth.outbox (subject, payload)
    select 'msg.user.avatar_changed', jsonb_build_object('userId', null, 'avatar', null,
             'replaced', jsonb_build_object('large', u.hash, 'small', u.hash),
             'at', to_char(u.used_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
      from unused u
    returning 1
  )
  select (select max(s.hash) from page s), (select count(*)::int from event)
$$;
grant execute on function auth.tell_unused(text, int) to :"notifications";
