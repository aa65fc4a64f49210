-- Users who were deleted are listed and restored, and people are erased. The indexes may be built before, concurrently.

-- Those of a tenant, by when they were deleted.
create index if not exists users_deleted_of_tenant on users (tenant_id, deleted_at, id) where deleted_at is not null;

-- Who was erased. The row stays, or what a backup brings back could not be erased again; it outlives the user's. texts are the
-- addresses that are still looked for where no key leads; nothing is left of them when that is done.
create table erasures (
  tenant_id   uuid not null references tenants (id) on delete cascade,
  user_id     uuid not null,
  erased_at   timestamptz not null default now(),
  texts       text[],
  finished_at timestamptz,
  primary key (tenant_id, user_id),
  check ((texts is null) = (finished_at is not null))
);
call wall('erasures');
grant select, insert on erasures to tenantry_app, tenantry_system;
grant update on erasures to tenantry_system;

grant delete on user_logins to tenantry_app, tenantry_system;

-- Mails to one user, among however many jobs.
create index if not exists jobs_of_user on jobs (tenant_id, (payload ->> 'user_id')) where payload ? 'user_id';

insert into job_kinds (kind, required, max_attempts) values ('erase_user', '{"user_id": "uuid"}', 86400);

-- value without any of texts, in any case, be it a text or JSON. Whole addresses only: one may be the end of another. Behind an
-- escaped letter of JSON, such as a new line, one may begin.
create function without_texts(value text, texts text[]) returns text language plpgsql immutable parallel safe as $$
declare
  wanted text;
  quoted text;
begin
  foreach wanted in array texts loop
    quoted := to_json(wanted)::text;
    foreach wanted in array array[wanted, substr(quoted, 2, length(quoted) - 2)] loop
      value := regexp_replace(value, '(?:(?<![[:alnum:]._%+''-])|(?<=\\[bfnrt]))'
        || regexp_replace(wanted, '([^[:alnum:]])', '\\\1', 'g') || '(?![[:alnum:]-]|\.[[:alnum:]])', 'erased', 'gi');
    end loop;
  end loop;
  return value;
end $$;

-- Goes through the trail of somebody who is being erased, up to batch events after `after`, and returns the last it came by;
-- null when there are no more. What the person did keeps its place and loses the network it came from; nothing else changes but
-- addresses in its details, of which there should be none. It is the only way to change an event, it is the workers' alone, and
-- there has to be an erasure under way, which the trail tells of.
create function erase_from_audit(tenant uuid, person uuid, after uuid, batch int) returns uuid
language plpgsql security definer set search_path = tenantry, pg_temp as $$
declare
  looked_for text[];
  seen       uuid[];
begin
  -- What somebody else has by now stays theirs.
  select array(select t from unnest(e.texts) t where not exists (
      select from tenantry.users o where o.tenant_id = tenant and o.email = t and o.deleted_at is null))
    into looked_for from tenantry.erasures e
    where e.tenant_id = tenant and e.user_id = person and e.finished_at is null;
  if not found then
    raise object_not_in_prerequisite_state using message = 'nobody of this id is being erased';
  end if;
  select array_agg(s.id order by s.id) into seen from (
    (select a.id from tenantry.audit_events a
      where a.tenant_id = tenant and a.actor_id = person and a.id > after order by a.id limit batch)
    union
    (select a.id from tenantry.audit_events a
      where a.tenant_id = tenant and a.subject_id = person and a.id > after order by a.id limit batch)
    order by id limit batch
  ) s;
  update tenantry.audit_events a set
      -- Whoever tried their password may have been they.
      address = case when a.actor_id = person or a.actor_kind = 'anonymous' then null else a.address end,
      detail = tenantry.without_texts(a.detail::text, looked_for)::jsonb
    where a.tenant_id = tenant and a.id = any (seen)
      and (a.address is not null or tenantry.without_texts(a.detail::text, looked_for) <> a.detail::text);
  return seen[cardinality(seen)];
end $$;
revoke all on function erase_from_audit(uuid, uuid, uuid, int) from public;
grant execute on function erase_from_audit(uuid, uuid, uuid, int) to tenantry_system;

-- As in V8. Invitations that came to an end hold the address of those whom they led to: it goes with them, unless somebody else
-- of the tenant has it by now.
create or replace function purge_deleted_users(keep interval, batch int) returns bigint language plpgsql as $$
declare removed bigint;
begin
  perform set_config('role', 'tenantry_system', true);
  with old as (
    select d.tenant_id, d.id from tenantry.users d where d.deleted_at < now() - keep
    order by d.deleted_at limit batch for update skip locked
  ), purged as (
    delete from tenantry.users u using old d where u.tenant_id = d.tenant_id and u.id = d.id
    returning u.tenant_id, u.id, u.email
  ), blanked as (
    update tenantry.invitations i set email = 'erased-' || i.id || '@erased.invalid'
    from purged p
    where i.tenant_id = p.tenant_id and i.email = p.email and (i.accepted_at is not null or i.ended_at is not null)
      and not exists (select from tenantry.users o
        where o.tenant_id = p.tenant_id and o.email = p.email and o.deleted_at is null)
  )
  insert into tenantry.audit_events (tenant_id, actor_kind, action, subject_id)
    select p.tenant_id, 'system', 'user.purged', p.id from purged p;
  get diagnostics removed = row_count;
  return removed;
end $$;

-- By their address all that have come to an end are found, too.
create index if not exists invitations_ended on invitations (tenant_id, email) where accepted_at is not null or ended_at is not null;
