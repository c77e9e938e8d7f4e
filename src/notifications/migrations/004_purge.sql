-- Read in order, batch by batch, as orders.idempotency_created_idx.
drop index notifications.mail_delivery_created_idx;
create index mail_delivery_created_idx on notifications.mail_delivery (created_at);
