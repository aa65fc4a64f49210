-- Safe retries: what a request was answered that its client has named by a key. The row is written in the transaction of the
-- effect, so it is there exactly when the effect is.

-- name is a SHA-256 of who asked and of the key. fingerprint tells whether it is the same request again: a HMAC, whose key is
-- not in the database, since a body may hold a password and a plain hash of it could be guessed at by whoever reads the table.
create table idempotency_keys (
  tenant_id   uuid not null references tenants (id) on delete cascade,
  name        bytea not null check (length(name) = 32),
  key_id      text not null,
  fingerprint bytea not null check (length(fingerprint) = 32),
  answer      bytea not null,
  made_at     timestamptz not null default now(),
  primary key (tenant_id, name)
);
create index idempotency_keys_made on idempotency_keys (made_at);
call wall('idempotency_keys');
grant select, insert, update on idempotency_keys to tenantry_app;
grant select, insert, update, delete on idempotency_keys to tenantry_system;

-- A point read, as those in V1.
create function idempotent_answer(tenant uuid, wanted bytea, keep interval)
returns table (key_id text, fingerprint bytea, answer bytea) language plpgsql as $$ begin
  perform set_config('role', 'tenantry_app', true), set_config('tenantry.tenant', tenant::text, true);
  return query select k.key_id, k.fingerprint, k.answer from tenantry.idempotency_keys k
    where k.tenant_id = tenant and k.name = wanted and k.made_at > now() - keep;
end $$;

-- Removes up to batch answers that were given longer than keep ago; returns how many.
create function prune_idempotency_keys(keep interval, batch int) returns bigint language plpgsql as $$
declare removed bigint;
begin
  perform set_config('role', 'tenantry_system', true);
  with old as (
    select k.tenant_id, k.name from tenantry.idempotency_keys k where k.made_at < now() - keep
    order by k.made_at limit batch for update skip locked
  )
  delete from tenantry.idempotency_keys k using old o where k.tenant_id = o.tenant_id and k.name = o.name;
  get diagnostics removed = row_count;
  return removed;
end $$;
