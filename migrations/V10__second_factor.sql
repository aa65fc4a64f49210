-- Codes of an authenticator app as a second factor (TOTP, RFC 6238), with recovery codes.

-- Whether users of the tenant must have one: who signs in without may only set it up.
alter table tenants add column require_second_factor boolean not null default false;

-- How its user signed in (RFC 8176). Empty: an operator did, from the shell.
alter table sessions add column amr text[] not null default '{pwd}' check (amr <@ array['pwd', 'otp']);

-- The secret is encrypted with the key of this id (ENCRYPTION_KEYS_DIR) for this tenant and user: nonce, ciphertext, tag.
-- Pending until a code has proven it. A code works once: last_step is the time step of the last one, in 30 seconds since
-- 1970. failures counts wrong codes since the last right one. Whoever changes a row locks the user's row first.
create table second_factors (
  tenant_id    uuid not null,
  user_id      uuid not null,
  key_id       text not null check (length(key_id) between 1 and 64),
  secret       bytea not null check (length(secret) = 48),
  created_at   timestamptz not null default now(),
  confirmed_at timestamptz,
  last_step    bigint not null default 0,
  failures     int not null default 0 check (failures >= 0),
  locked_until timestamptz,
  primary key (tenant_id, user_id),
  foreign key (tenant_id, user_id) references users (tenant_id, id) on delete cascade
);
-- Which keys are still needed.
create index second_factors_key on second_factors (key_id);
call wall('second_factors');
grant select, insert, update, delete on second_factors to tenantry_app, tenantry_system;

-- 140 random bits each, so that their SHA-256 tells nothing; each works once.
create table recovery_codes (
  tenant_id uuid not null,
  user_id   uuid not null,
  hash      bytea not null check (length(hash) = 32),
  used_at   timestamptz,
  primary key (tenant_id, user_id, hash),
  foreign key (tenant_id, user_id) references second_factors (tenant_id, user_id) on delete cascade
);
call wall('recovery_codes');
grant select, insert, update, delete on recovery_codes to tenantry_app, tenantry_system;

insert into job_kinds (kind, required, max_attempts) values
  ('second_factor_notice_email', '{"user_id": "uuid", "event": "string"}', 25);
