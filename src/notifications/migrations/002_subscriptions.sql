-- Which optional mails a user wants; without a row they are wanted. The token is in every such mail, and whoever has it
-- may end the mails of this topic without a login, and do nothing else.
create table notifications.subscription (
  user_id uuid not null,
  topic text not null constraint subscription_topic check (topic in ('cart', 'payment', 'feedback', 'digest')),
  wanted boolean not null default true,
  token uuid not null default gen_random_uuid() constraint subscription_token_key unique,
  changed_at timestamptz not null default now(),
  constraint subscription_pkey primary key (user_id, topic)
);

-- A digest is begun once for each user and day of theirs, and never again, whatever becomes of it.
create table notifications.digest (
  user_id uuid not null,
  day date not null,
  -- What happened before is in it, or in one before it.
  until timestamptz not null,
  constraint digest_pkey primary key (user_id, day)
);

create index mail_delivery_created_idx on notifications.mail_delivery using brin (created_at);
