-- What mails need to know of a user, told by msg.user.* events, which may come in any order.
create table notifications.recipient (
  user_id uuid constraint recipient_pkey primary key,
  email text not null,
  name text not null,
  locale text not null,
  -- Unknown until an event that carries it has come.
  time_zone text,
  -- How late in a user's life the telling event happens: 1 registered, 2 verified, 3 changed. An earlier one never overwrites.
  stage smallint not null constraint recipient_stage check (stage between 1 and 3)
);

-- The inbox: one row for each event that became a mail. Who holds the claim may send; sent_at is final.
create table notifications.mail_delivery (
  event_id text constraint mail_delivery_pkey primary key,
  kind text not null,
  claimed_by uuid not null,
  claimed_until timestamptz not null,
  claims integer not null default 1,
  created_at timestamptz not null default now(),
  sent_at timestamptz
) with (fillfactor = 80);

-- The lock and the ledger of scheduled runs: one row for each job and time slot, whichever replica runs it.
create table notifications.cron_run (
  job text not null,
  slot timestamptz not null,
  owner uuid not null,
  claimed_at timestamptz not null default now(),
  lease_until timestamptz not null,
  finished_at timestamptz,
  result jsonb,
  error text,
  constraint cron_run_pkey primary key (job, slot),
  constraint cron_run_outcome check (finished_at is not null or (result is null and error is null))
);
create index cron_run_open on notifications.cron_run (lease_until) where finished_at is null;
