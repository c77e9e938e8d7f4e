-- Jobs, which the notifications role runs.

-- Who gets the digest of the staff.
create function auth.digest_readers()
returns table (user_id uuid, email text, name text, locale text, time_zone text)
language sql stable security definer set search_path = '' as $$
  select u.id, u.email, u.name, u.locale, u.time_zone from auth.user u
   where u.roles && '{staff,admin}' and u.email_verified_at is not null
   order by u.id
$$;

-- Forgets up to `batch` of each: sessions, with their tokens, a week after their end; links and codes that are over, with
-- their count of the day; failures to log in that slow nobody down any more. Returns how many rows went.
create function auth.purge(batch int default 5000) returns int
language sql security definer set search_path = '' as $$
  with ended as (
    delete from auth.session s where s.id in (
      select e.id from auth.session e
       where least(e.revoked_at, e.expires_at, e.last_used_at + interval '7 days') < now() - interval '7 days'
       limit batch for update skip locked)
    returning 1
  ), over as (
    delete from auth.verification v where (v.user_id, v.purpose) in (
      select e.user_id, e.purpose from auth.verification e
       where e.sent_at < now() - interval '2 days' and e.day_began_at < now() - interval '2 days'
       limit batch for update skip locked)
    returning 1
  ), forgotten as (
    delete from auth.login_failure f where f.key in (
      select e.key from auth.login_failure e where e.last_at < now() - interval '1 day' limit batch for update skip locked)
    returning 1
  )
  select ((select count(*) from ended) + (select count(*) from over) + (select count(*) from forgotten))::int
$$;

-- As products.tell_unused, for avatars.
create function auth.tell_unused() returns int
language sql security definer set search_path = '' as $$
  with unused as (
    select o.hash, o.used_at from auth.object o
     where o.used_at < now() - interval '25 hours'
       and not exists (select from auth.object_in_use u where u.hash = o.hash)
  ), told as (
    insert into auth.outbox (subject, payload)
    select 'msg.user.avatar_changed', jsonb_build_object('userId', null, 'avatar', null,
             'replaced', jsonb_build_object('large', u.hash, 'small', u.hash),
             'at', to_char(u.used_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
      from unused u limit 1
  )
  select count(*)::int from unused
$$;

grant usage on schema auth to :"notifications";
grant execute on function auth.digest_readers, auth.purge, auth.tell_unused to :"notifications";
