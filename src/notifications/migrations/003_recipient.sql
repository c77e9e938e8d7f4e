alter table notifications.recipient
  -- When the change was made that was told last. Events of several changes are handled at once, and may come again later.
  add column changed_at timestamptz;
