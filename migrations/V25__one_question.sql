-- What was asked for in several round trips, in one.

-- As in V12, with what the tenant pays for. Programs of the release before name the columns that they read.
drop function api_key_by_id(uuid, uuid, bytea);
create function api_key_by_id(tenant uuid, key uuid, secret_hash bytea)
returns table (scopes text[], requests_per_minute int, expires_at timestamptz, tenant_slug text, tenant_plan text, tenant_version bigint)
language plpgsql as $$ begin
  perform set_config('role', 'tenantry_app', true), set_config('tenantry.tenant', tenant::text, true);
  return query
    select k.scopes, k.requests_per_minute, k.expires_at, t.slug, t.plan, t.auth_version
    from tenantry.api_keys k join tenantry.tenants t on t.id = k.tenant_id
    where k.tenant_id = tenant and k.id = key and k.hash = secret_hash and k.revoked_at is null and k.expires_at > now()
      and t.is_active and t.deleted_at is null;
end $$;

-- The id of a tenant by its id or its slug, for whoever names one before anybody is known: nothing else is told, and what comes
-- after it in the transaction sees that tenant alone.
create function tenant_named(reference text) returns uuid language plpgsql as $$
declare
  found uuid;
begin
  perform set_config('role', 'tenantry_system', true);
  found := tenantry.tenant_id_of(reference);
  perform set_config('role', 'tenantry_app', true), set_config('tenantry.tenant', coalesce(found::text, ''), true);
  return found;
end $$;
