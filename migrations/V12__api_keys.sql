-- How programs ask.

-- A key belongs to its tenant and outlives whoever made it. Only the SHA-256 of its secret is kept: at 256 random bits a
-- slower hash would protect nothing.
create table api_keys (
  tenant_id           uuid not null references tenants (id) on delete cascade,
  id                  uuid not null,
  name                text not null check (length(name) between 1 and 255),
  hash                bytea not null check (length(hash) = 32),
  hint                text not null,
  scopes              text[] not null check (cardinality(scopes) > 0),
  requests_per_minute int not null check (requests_per_minute between 1 and 1000000),
  created_by          uuid not null,
  created_at          timestamptz not null default now(),
  expires_at          timestamptz not null,
  last_used_at        timestamptz,
  revoked_at          timestamptz,
  primary key (tenant_id, id)
);
create unique index api_keys_name on api_keys (tenant_id, name) where revoked_at is null;
call wall('api_keys');
grant select, insert, update on api_keys to tenantry_app, tenantry_system;
grant delete on api_keys to tenantry_system;

-- A key is dead as such, like a session.
alter table revocations drop constraint revocations_subject_check, drop constraint revocations_check;
alter table revocations
  add constraint revocations_subject_check check (subject in ('session', 'user', 'tenant', 'cached_user', 'api_key')),
  add constraint revocations_check check ((subject in ('session', 'api_key')) = (min_version is null));

-- A key by its primary key, if it works and its secret has this hash.
create function api_key_by_id(tenant uuid, key uuid, secret_hash bytea)
returns table (scopes text[], requests_per_minute int, expires_at timestamptz, tenant_slug text, tenant_version bigint)
language plpgsql as $$ begin
  perform set_config('role', 'tenantry_app', true), set_config('tenantry.tenant', tenant::text, true);
  return query
    select k.scopes, k.requests_per_minute, k.expires_at, t.slug, t.auth_version
    from tenantry.api_keys k join tenantry.tenants t on t.id = k.tenant_id
    where k.tenant_id = tenant and k.id = key and k.hash = secret_hash and k.revoked_at is null and k.expires_at > now()
      and t.is_active and t.deleted_at is null;
end $$;

-- Whether a key may still act: as actor_stands for users.
create function api_key_stands(tenant uuid, key uuid) returns boolean
language sql stable security definer set search_path = tenantry, pg_temp as $$
  select exists (
    select from api_keys k join tenants t on t.id = k.tenant_id
    where k.tenant_id = tenant and k.id = key and k.revoked_at is null and k.expires_at > now()
      and t.is_active and t.deleted_at is null
  )
$$;
revoke all on function api_key_stands(uuid, uuid) from public;
grant execute on function api_key_stands(uuid, uuid) to tenantry_app;

-- Notes when keys were used last, many at once: each process says it once a minute.
create function note_api_keys_used(tenants uuid[], keys uuid[], at timestamptz[]) returns void language plpgsql as $$ begin
  perform set_config('role', 'tenantry_system', true);
  update tenantry.api_keys k set last_used_at = used.at
    from unnest(tenants, keys, at) as used (tenant_id, id, at)
    where k.tenant_id = used.tenant_id and k.id = used.id and (k.last_used_at is null or k.last_used_at < used.at);
end $$;

-- Whether an access token still stands on all that it was made of, asked of the rows: for introspection.
create function token_stands(tenant uuid, holder uuid, session uuid, user_version bigint, tenant_version bigint)
returns boolean language plpgsql as $$ begin
  perform set_config('role', 'tenantry_app', true), set_config('tenantry.tenant', tenant::text, true);
  return exists (
    select from tenantry.sessions s
      join tenantry.users u on u.tenant_id = s.tenant_id and u.id = s.user_id
      join tenantry.tenants t on t.id = s.tenant_id
    where s.tenant_id = tenant and s.id = session and s.user_id = holder and s.revoked_at is null and s.expires_at > now()
      and u.auth_version = user_version and u.is_active and u.deleted_at is null
      and t.auth_version = tenant_version and t.is_active and t.deleted_at is null);
end $$;
