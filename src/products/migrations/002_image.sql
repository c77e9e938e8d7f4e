alter table products.product
  -- SHA-256, in hex, of the two files.
  add column image_large text,
  add column image_small text,
  add constraint product_image_large_form check (image_large ~ '^[0-9a-f]{64}$'),
  add constraint product_image_small_form check (image_small ~ '^[0-9a-f]{64}$'),
  add constraint product_image_whole check ((image_large is null) = (image_small is null));
create index product_image_large on products.product (image_large) where image_large is not null and deleted_at is null;
create index product_image_small on products.product (image_small) where image_small is not null and deleted_at is null;

-- Each file in the object store. `used_at`: when it was last written, or given up by something that referred to it.
create table products.object (
  hash text not null,
  used_at timestamptz not null default now(),
  constraint object_pkey primary key (hash)
);
create index object_used on products.object (used_at);

create view products.object_in_use as
  select image_large as hash from products.product where image_large is not null and deleted_at is null
  union all
  select image_small as hash from products.product where image_small is not null and deleted_at is null;

create table products.outbox (
  seq bigint generated always as identity,
  id uuid not null default gen_random_uuid(),
  subject text not null,
  payload jsonb not null,
  created_at timestamptz not null default now(),
  constraint outbox_pkey primary key (seq)
);
