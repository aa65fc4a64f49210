-- Tenants that close, seats that lock nobody out, and what comes round for both.

-- A tenant is closed (deleted_at), may be opened again until purge_after, and is then purged.
alter table tenants
  add column purge_after timestamptz,
  add constraint tenants_purged_when_closed check (purge_after is null or deleted_at is not null);
create index tenants_closed on tenants (purge_after) where purge_after is not null;

-- A smaller plan may have fewer seats than are used: nobody loses theirs, and none is taken until there is one.
alter table tenant_seats
  drop constraint tenant_seats_available,
  add constraint tenant_seats_counted check (used >= 0);

create function seat_taken() returns trigger language plpgsql as $$ begin
  raise check_violation using message = 'no seat is free', constraint = 'tenant_seats_available', table = 'tenant_seats',
    schema = 'tenantry';
end $$;
create trigger tenant_seats_available before update of used on tenant_seats for each row
  when (new.used > old.used and new.used > new.max) execute function seat_taken();

-- What tenant_seats.used has to be: users, and invitations that are open.
create function seats_counted(tenant uuid) returns int language sql stable as $$
  select ((select count(*) from tenantry.users u where u.tenant_id = tenant and u.deleted_at is null)
    + (select count(*) from tenantry.invitations i
       where i.tenant_id = tenant and i.accepted_at is null and i.ended_at is null))::int
$$;

-- What is deleted with a user or a session is found by an index, however many rows the tenant has.
create index sessions_of_user on sessions (tenant_id, user_id);
create index refresh_tokens_session on refresh_tokens (tenant_id, session_id);
create index address_notices_user on address_notices (tenant_id, user_id);

insert into job_kinds (kind, required, max_attempts) values
  ('purge_tenants', '{}', 10),
  ('rotate_audit',  '{}', 10);
insert into schedules (kind, every) values
  ('purge_tenants', '1 h'),
  ('rotate_audit',  '6 h');

-- Removes up to batch rows of a closed tenant whose time has come, those first that others are deleted with; the tenant
-- itself when nothing else is left, and then says true. The audit trail stays. Tables that later migrations bring are
-- found by themselves.
create function purge_tenant(tenant uuid, batch int) returns boolean language plpgsql
security definer set search_path = tenantry, pg_temp as $$
declare
  relation regclass;
  removed  bigint;
begin
  perform from tenantry.tenants t where t.id = tenant and t.deleted_at is not null and t.purge_after <= now() for update;
  if not found then
    raise object_not_in_prerequisite_state using message = 'this tenant is not to be purged';
  end if;
  for relation in
    with recursive below as (
      select 'tenantry.tenants'::regclass::oid as relation, 0 as depth
      union all
      select k.conrelid, b.depth + 1 from below b
        join pg_constraint k on k.confrelid = b.relation and k.contype = 'f' and k.conrelid <> k.confrelid and k.conparentid = 0
      where b.depth < 8
    )
    select c.oid from pg_class c
      join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id'
      left join below b on b.relation = c.oid
    where c.relnamespace = 'tenantry'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
      and c.oid not in ('tenantry.audit_events'::regclass, 'tenantry.tenant_seats'::regclass)
    group by c.oid order by coalesce(max(b.depth), 0) desc, c.oid
  loop
    execute format('delete from %1$s where tenant_id = $1
      and ctid = any (array (select ctid from %1$s where tenant_id = $1 limit $2))', relation) using tenant, batch;
    get diagnostics removed = row_count;
    if removed > 0 then
      return false;
    end if;
  end loop;
  delete from tenantry.tenants where id = tenant;
  return true;
end $$;
revoke all on function purge_tenant(uuid, int) from public;
grant execute on function purge_tenant(uuid, int) to tenantry_system;

-- As in V4, and the trail says so.
create or replace function purge_deleted_users(keep interval, batch int) returns bigint language plpgsql as $$
declare removed bigint;
begin
  perform set_config('role', 'tenantry_system', true);
  with old as (
    select d.tenant_id, d.id from tenantry.users d where d.deleted_at < now() - keep
    order by d.deleted_at limit batch for update skip locked
  ), purged as (
    delete from tenantry.users u using old d where u.tenant_id = d.tenant_id and u.id = d.id
    returning u.tenant_id, u.id
  )
  insert into tenantry.audit_events (tenant_id, actor_kind, action, subject_id)
    select p.tenant_id, 'system', 'user.purged', p.id from purged p;
  get diagnostics removed = row_count;
  return removed;
end $$;
