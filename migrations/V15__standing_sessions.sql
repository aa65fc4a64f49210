-- As actor_stands, and the session of the token goes on: who signs out everywhere ends at once what others would change in
-- their name, also at a process that has not heard of it yet.
create function session_stands(tenant uuid, actor uuid, seen_version bigint, session uuid) returns boolean
language sql stable security definer set search_path = tenantry, pg_temp as $$
  select tenantry.actor_stands(tenant, actor, seen_version) and exists (
    select from sessions s where s.tenant_id = tenant and s.id = session and s.user_id = actor and s.revoked_at is null
  )
$$;
revoke all on function session_stands(uuid, uuid, bigint, uuid) from public;
grant execute on function session_stands(uuid, uuid, bigint, uuid) to tenantry_app, tenantry_system;
