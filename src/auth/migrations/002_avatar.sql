alter table auth.user
  -- SHA-256, in hex, of the two files.
  add column avatar_large text constraint user_avatar_large_form check (avatar_large ~ '^[0-9a-f]{64}$'),
  add column avatar_small text constraint user_avatar_small_form check (avatar_small ~ '^[0-9a-f]{64}$'),
  add constraint user_avatar_whole check ((avatar_large is null) = (avatar_small is null));
create index user_avatar_large_idx on auth.user (avatar_large) where avatar_large is not null;
create index user_avatar_small_idx on auth.user (avatar_small) where avatar_small is not null;

-- Each file in the object store. `used_at`: when it was last written, or given up by something that referred to it.
create table auth.object (
  hash text constraint object_pkey primary key,
  used_at timestamptz not null default now()
);
create index object_used_idx on auth.object (used_at);

create view auth.object_in_use as
  select avatar_large as hash from auth.user where avatar_large is not null
  union all
  select avatar_small as hash from auth.user where avatar_small is not null;
