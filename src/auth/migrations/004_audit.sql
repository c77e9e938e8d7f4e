-- What happened to accounts and by whom. The role adds to it and reads it; changing or deleting is nobody's, and what is a
-- year old goes by the function below. No reference to auth.user: an entry outlives the account.
create table auth.audit (
  id uuid not null default gen_random_uuid() constraint audit_pkey primary key,
  at timestamptz not null default now(),
  event text not null,
  -- Whose account; null where there is none, as with a password for an unknown address.
  user_id uuid,
  -- Who did it; null where nobody was signed in, or a command did it.
  actor uuid,
  ip text,
  detail jsonb not null default '{}'
);
create index audit_at_idx on auth.audit (at, id);
create index audit_user_idx on auth.audit (user_id, at, id);
revoke update, delete on auth.audit from :"auth";

-- Forgets up to `batch` entries that are older than a year; how many.
create function auth.purge_audit(batch int default 5000) returns int
language sql security definer set search_path = '' as $$
  with gone as (
    delete from auth.audit a where a.id in (
      select o.id from auth.audit o where o.at < now() - interval '365 days' order by o.at limit batch for update skip locked)
    returning 1
  )
  select count(*)::int from gone
$$;
grant execute on function auth.purge_audit to :"notifications";
