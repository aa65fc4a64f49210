-- Removes up to `batch` API keys that ended, by themselves or by somebody, longer than `keep` ago; returns how many. The
-- audit trail says when they were made and revoked.
create index api_keys_ended on api_keys (least(expires_at, revoked_at));
create function purge_api_keys(keep interval, batch int) returns bigint language plpgsql as $$
declare removed bigint;
begin
  perform set_config('role', 'tenantry_system', true);
  with old as (
    select k.tenant_id, k.id from tenantry.api_keys k where least(k.expires_at, k.revoked_at) < now() - keep
    order by least(k.expires_at, k.revoked_at) limit batch for update skip locked
  )
  delete from tenantry.api_keys k using old o where k.tenant_id = o.tenant_id and k.id = o.id;
  get diagnostics removed = row_count;
  return removed;
end $$;
