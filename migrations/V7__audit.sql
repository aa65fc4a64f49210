-- The audit trail: who did what, from where, in the transaction that did it. A partition a month, so that what is older
-- than the retention goes at once and not row by row. The trail outlives its tenant: there is no foreign key.

alter table audit_events rename to audit_events_until_v7;
alter table audit_events_until_v7 rename constraint audit_events_pkey to audit_events_until_v7_pkey;
drop index audit_events_at;

-- The lowest UUID of a millisecond; every UUIDv7 made at or after it is as high or higher.
create function uuid_floor(moment timestamptz) returns uuid language sql immutable parallel safe
  as $$ select (lpad(to_hex(floor(extract(epoch from moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid $$;

-- RFC 9562, with the fraction of the millisecond in rand_a (method 3): what one transaction writes sorts as it was written,
-- and one clock, the database's, decides the order, the partition and the retention.
create function event_id() returns uuid language sql volatile parallel safe as $$
  select (lpad(to_hex(now.micros / 1000), 12, '0') || '7' || lpad(to_hex(now.micros % 1000 * 4096 / 1000), 3, '0')
    || right(replace(gen_random_uuid()::text, '-', ''), 16))::uuid
  from (select floor(extract(epoch from clock_timestamp()) * 1000000)::bigint as micros) now
$$;

-- anonymous: somebody who did not show who they are.
create table audit_events (
  tenant_id  uuid not null,
  id         uuid not null default tenantry.event_id(),
  at         timestamptz not null default now(),
  actor_kind text not null default 'user'
    check (actor_kind in ('user', 'super_admin', 'api_key', 'operator', 'system', 'anonymous')),
  actor_id   uuid,
  address    cidr,
  action     text not null,
  subject_id uuid not null,
  detail     jsonb not null default '{}',
  primary key (tenant_id, id)
) partition by range (id);
create index audit_events_actor on audit_events (tenant_id, actor_id, id);
create index audit_events_subject on audit_events (tenant_id, subject_id, id);
create index audit_events_action on audit_events (tenant_id, action, id);
call wall('audit_events');
grant select, insert on audit_events to tenantry_app, tenantry_system;

-- For what no month takes, so that an event never fails for want of a partition. Partitions are reached through their
-- parent alone: nobody but the owner has any right to them, and a wall without a door stands around each.
create table audit_events_default partition of audit_events default;
alter table audit_events_default enable row level security;

-- Makes the partition of a month, and moves there what the default one has of it.
create function make_audit_partition(month timestamptz) returns void language plpgsql as $$
declare
  first timestamp := date_trunc('month', month at time zone 'UTC');
  low   uuid := tenantry.uuid_floor(first at time zone 'UTC');
  high  uuid := tenantry.uuid_floor((first + interval '1 month') at time zone 'UTC');
  name  text := 'audit_events_' || to_char(first, 'YYYY_MM');
begin
  if to_regclass('tenantry.' || name) is not null then
    return;
  end if;
  lock table tenantry.audit_events_default in access exclusive mode;
  execute format('create table tenantry.%I (like tenantry.audit_events including defaults including constraints)', name);
  execute format('alter table tenantry.%I enable row level security', name);
  execute format('with moved as (delete from tenantry.audit_events_default where id >= %L and id < %L returning *)
    insert into tenantry.%I select * from moved', low, high, name);
  -- Attaching, unlike "create table ... partition of", lets others write to the trail meanwhile.
  execute format('alter table tenantry.audit_events attach partition tenantry.%I for values from (%L) to (%L)', name, low, high);
end $$;

-- Makes the partitions of this month and the next two, and drops those of which every event is older than keep; returns how
-- many it dropped. What it waits for, everybody waits for who writes: rather than that it fails, and is tried again.
create function rotate_audit(keep interval) returns int language plpgsql
security definer set search_path = tenantry, pg_temp set lock_timeout = '1s' as $$
declare
  old     name;
  dropped int := 0;
begin
  -- Whoever has taken the application over cannot sweep its own traces away.
  if keep is null or keep < interval '30 days' then
    raise invalid_parameter_value using message = 'the audit trail is kept for 30 days at least';
  end if;
  for ahead in 0..2 loop
    perform tenantry.make_audit_partition(
      (date_trunc('month', now() at time zone 'UTC') + make_interval(months => ahead)) at time zone 'UTC');
  end loop;
  for old in
    select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'tenantry.audit_events'::regclass and c.relname ~ '^audit_events_[0-9]{4}_[0-9]{2}$'
      and (to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month') at time zone 'UTC' <= now() - keep
    order by c.relname
  loop
    execute format('drop table tenantry.%I', old);
    dropped := dropped + 1;
  end loop;
  delete from tenantry.audit_events_default where id < tenantry.uuid_floor(now() - keep);
  return dropped;
end $$;

revoke all on function make_audit_partition(timestamptz), rotate_audit(interval) from public;
grant execute on function rotate_audit(interval) to tenantry_system;

do $$
declare month timestamp := date_trunc('month', coalesce((select min(at) from tenantry.audit_events_until_v7), now()) at time zone 'UTC');
begin
  while month <= (now() at time zone 'UTC') + interval '2 months' loop
    perform tenantry.make_audit_partition(month at time zone 'UTC');
    month := month + interval '1 month';
  end loop;
end $$;

insert into audit_events (tenant_id, id, at, actor_id, action, subject_id, detail)
  select tenant_id, id, at, actor_id, action, subject_id, detail from audit_events_until_v7;
drop table audit_events_until_v7;
