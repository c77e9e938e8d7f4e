create table auth.user (
  id uuid constraint user_pkey primary key,
  email text not null constraint user_email_key unique constraint user_email_lower check (email = lower(email)),
  name text not null,
  locale text not null,
  time_zone text not null,
  password_hash text,
  roles text[] not null default '{customer}',
  email_verified_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

-- One row for each user and purpose: issuing anew replaces the secrets, so an older mail stops working.
create table auth.verification (
  user_id uuid not null constraint verification_user_fkey references auth.user on delete cascade,
  purpose text not null constraint verification_purpose check (purpose in ('verify', 'login', 'reset', 'notice')),
  link_hash bytea constraint verification_link_key unique,
  link_expires_at timestamptz,
  code_hash bytea,
  code_expires_at timestamptz,
  attempts int not null default 0,
  consumed_at timestamptz,
  sent_at timestamptz not null default now(),
  sent_count int not null default 1,
  day_began_at timestamptz not null default now(),
  constraint verification_pkey primary key (user_id, purpose)
);

create table auth.session (
  id uuid constraint session_pkey primary key,
  user_id uuid not null constraint session_user_fkey references auth.user on delete cascade,
  ip text not null,
  user_agent text not null,
  created_at timestamptz not null default now(),
  last_used_at timestamptz not null default now(),
  expires_at timestamptz not null,
  revoked_at timestamptz
);
create index session_user_idx on auth.session (user_id) where revoked_at is null;
create index session_revoked_idx on auth.session (revoked_at) where revoked_at is not null;

-- Every token a session ever had: a used one that comes back late means that it was copied.
create table auth.refresh_token (
  token_hash bytea constraint refresh_token_pkey primary key,
  session_id uuid not null constraint refresh_token_session_fkey references auth.session on delete cascade,
  created_at timestamptz not null default now(),
  used_at timestamptz
);
create index refresh_token_session_idx on auth.refresh_token (session_id);

-- Failed passwords by SHA-256 of account and address, so that an unknown account slows down like a known one.
create table auth.login_failure (
  key bytea constraint login_failure_pkey primary key,
  failures int not null,
  began_at timestamptz not null default now(),
  last_at timestamptz not null default now()
);

create table auth.outbox (
  seq bigint generated always as identity constraint outbox_pkey primary key,
  id uuid not null default gen_random_uuid(),
  subject text not null,
  payload jsonb not null,
  created_at timestamptz not null default now()
);
