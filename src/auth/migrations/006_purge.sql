-- By an array, which is made once. A list that the planner joins is made again for each row, where it thinks the table empty,
-- as at its last look: 20,000 failures to log in took longer than a statement may, and more went than `batch`.

-- Forgets up to `batch` of each: sessions, with their tokens, a week after their end; links and codes that are over, with
-- their count of the day; failures to log in that slow nobody down any more. Returns how many rows went.
create or replace function auth.purge(batch int default 5000) returns int
language sql security definer set search_path = '' as $$
  with ended as (
    delete from auth.session s where s.ctid = any (array(
      select e.ctid from auth.session e
       where least(e.revoked_at, e.expires_at, e.last_used_at + interval '7 days') < now() - interval '7 days'
       limit batch for update skip locked))
    returning 1
  ), over as (
    delete from auth.verification v where v.ctid = any (array(
      select e.ctid from auth.verification e
       where e.sent_at < now() - interval '2 days' and e.day_began_at < now() - interval '2 days'
       limit batch for update skip locked))
    returning 1
  ), forgotten as (
    delete from auth.login_failure f where f.ctid = any (array(
      select e.ctid from auth.login_failure e where e.last_at < now() - interval '1 day' limit batch for update skip locked))
    returning 1
  )
  select ((select count(*) from ended) + (select count(*) from over) + (select count(*) from forgotten))::int
$$;

-- Forgets up to `batch` entries that are older than a year; how many.
create or replace function auth.purge_audit(batch int default 5000) returns int
language sql security definer set search_path = '' as $$
  with gone as (
    delete from auth.audit a where a.ctid = any (array(
      select o.ctid from auth.audit o where o.at < now() - interval '365 days' order by o.at limit batch for update skip locked))
    returning 1
  )
  select count(*)::int from gone
$$;
