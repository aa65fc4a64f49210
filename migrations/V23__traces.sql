-- A job notes the trace of whoever enqueues it (W3C Trace Context): the setting `tenantry.traceparent` of the transaction, in
-- whatever language it was set. As the default of the column nobody who enqueues can forget it. What is no traceparent of
-- version 00 is none: nothing fails for it.

create function traceparent() returns text language sql stable parallel safe as $$
  select case when current_setting('tenantry.traceparent', true)
      ~ '^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$'
    then current_setting('tenantry.traceparent', true) end
$$;

alter table jobs add column traceparent text;
alter table jobs alter column traceparent set default tenantry.traceparent();

-- As in V4, with the job's trace. Programs of the release before name the columns that they read.
drop function lease_jobs(text, interval, text[], int[], int[], int[], uuid[], int, text[], uuid[], boolean, uuid, uuid[]);
create function lease_jobs(worker text, lease_for interval, kinds text[], rooms int[], reserved int[], caps int[],
  cursors uuid[], shared int, held_kinds text[], held_tenants uuid[], take_suspect boolean,
  only_tenant uuid default null, except_ids uuid[] default '{}')
returns table (tenant_id uuid, id uuid, kind text, payload text, state text, attempts int, max_attempts int,
  lease uuid, created_at timestamptz, suspect boolean, turn int, traceparent text)
language plpgsql
-- The shape of the plans must not depend on what the table looked like when a connection first planned them.
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  step  record;
  job   record;
  room  int;
  own   int;
  taken int;
  busy  uuid[];
begin
  perform set_config('role', 'tenantry_system', true), set_config('synchronous_commit', 'off', true);
  return query
    with crashed as (
      select j.tenant_id, j.id from tenantry.jobs j
      where j.state = 'running' and j.lease_expires_at < now() and j.kind = any (kinds)
        and (only_tenant is null or j.tenant_id = only_tenant)
      limit 100 for update skip locked
    )
    update tenantry.jobs j set
      state = case when j.alone and j.lone_crashes >= 2 then 'dead' else 'failed' end,
      finished_at = case when j.alone and j.lone_crashes >= 2 then now() end,
      -- A suspect that was not begun was only kept by the worker that died.
      attempts = j.attempts - (j.suspect and not j.alone)::int,
      crashes = j.crashes + (j.alone or not j.suspect)::int,
      lone_crashes = j.lone_crashes + j.alone::int, suspect = true, alone = false,
      run_at = now(), lease = null, lease_expires_at = null,
      last_error = case when j.alone and j.lone_crashes >= 2
        then format('parked: its worker died or hung each of the %s times it ran alone, last %s', j.lone_crashes + 1, j.leased_by)
        else format('the lease of worker %s ran out', j.leased_by) end,
      history = case when j.suspect and not j.alone then j.history
        else tenantry.attempt_noted(j, 'crashed', case when j.alone then 'ran alone' end) end
    from crashed c where j.tenant_id = c.tenant_id and j.id = c.id
    returning j.tenant_id, j.id, j.kind, null::text, j.state, j.attempts, j.max_attempts, null::uuid, j.created_at,
      true, 0, null::text;

  if take_suspect then
    return query
      with due as (
        select j.tenant_id, j.id from tenantry.jobs j
        where j.suspect and j.state in ('pending', 'failed') and j.run_at <= now() and j.kind = any (kinds)
          and (only_tenant is null or j.tenant_id = only_tenant) and j.id <> all (except_ids)
        order by j.run_at limit 1 for update skip locked
      )
      update tenantry.jobs j set
        state = 'running', attempts = j.attempts + 1, lease = gen_random_uuid(),
        lease_expires_at = now() + lease_for, leased_by = worker, started_at = now()
      from due d where j.tenant_id = d.tenant_id and j.id = d.id
      returning j.tenant_id, j.id, j.kind, j.payload::text, j.state, j.attempts, j.max_attempts, j.lease, j.created_at,
        true, 1, j.traceparent;
    if found then
      return;
    end if;
  end if;

  perform tenantry.promote_jobs(1000);
  for step in
    select k.kind, k.place, coalesce(cursors[k.place], '00000000-0000-0000-0000-000000000000') as cursor, p.priority
    from unnest(kinds) with ordinality as k (kind, place), lateral (
      with recursive levels as (
        (select j.priority from tenantry.jobs j where j.ready and j.kind = k.kind order by j.priority desc limit 1)
        union all
        select n.priority from levels l, lateral (
          select j.priority from tenantry.jobs j where j.ready and j.kind = k.kind and j.priority < l.priority
          order by j.priority desc limit 1) n
      )
      select l.priority from levels l limit 1000
    ) p
    -- Among kinds nobody is always the first.
    order by p.priority desc, random()
  loop
    room := least(rooms[step.place], reserved[step.place] + shared);
    continue when room <= 0;
    taken := 0;
    busy := array(
      select h.tenant_id from unnest(held_kinds, held_tenants) as h (kind, tenant_id)
      where h.kind = step.kind group by h.tenant_id having count(*) >= caps[step.place]);
    for job in
      with recursive
      later as (
        (select j.tenant_id, 1 as place from tenantry.jobs j
          where j.ready and j.kind = step.kind and j.priority = step.priority and j.tenant_id > step.cursor
            and (only_tenant is null or j.tenant_id = only_tenant)
          order by j.tenant_id limit 1)
        union all
        select n.tenant_id, l.place + 1 from later l, lateral (
          select j.tenant_id from tenantry.jobs j
          where j.ready and j.kind = step.kind and j.priority = step.priority and j.tenant_id > l.tenant_id
            and (only_tenant is null or j.tenant_id = only_tenant)
          order by j.tenant_id limit 1) n
      ),
      earlier as (
        (select j.tenant_id, 1000000000 as place from tenantry.jobs j
          where j.ready and j.kind = step.kind and j.priority = step.priority and j.tenant_id <= step.cursor
            and (only_tenant is null or j.tenant_id = only_tenant)
          order by j.tenant_id limit 1)
        union all
        select n.tenant_id, e.place + 1 from earlier e, lateral (
          select j.tenant_id from tenantry.jobs j
          where j.ready and j.kind = step.kind and j.priority = step.priority and j.tenant_id > e.tenant_id
            and j.tenant_id <= step.cursor and (only_tenant is null or j.tenant_id = only_tenant)
          order by j.tenant_id limit 1) n
      ),
      -- Both are read lazily: no further than until there are as many tenants as places.
      ring as materialized (
        select t.tenant_id, t.place from (select * from later union all select * from earlier) t
        where t.tenant_id <> all (busy) limit room
      ),
      turns as (
        select r.tenant_id, r.place, least(
          (room + c.tenants - 1) / c.tenants,
          caps[step.place] - (select count(*) from unnest(held_kinds, held_tenants) as h (kind, tenant_id)
            where h.kind = step.kind and h.tenant_id = r.tenant_id)) as share
        from ring r, (select count(*) as tenants from ring) c
      ),
      due as (
        select d.tenant_id, d.id, t.place, row_number() over (partition by d.tenant_id order by d.run_at) as round
        from turns t, lateral (
          select j.tenant_id, j.id, j.run_at from tenantry.jobs j
          where j.ready and j.kind = step.kind and j.priority = step.priority and j.tenant_id = t.tenant_id
            and j.run_at <= now() and j.id <> all (except_ids)
          order by j.run_at limit t.share for update skip locked
        ) d
      ),
      chosen as materialized (
        select d.tenant_id, d.id, row_number() over (order by d.round, d.place) as turn
        from due d order by d.round, d.place limit room
      )
      update tenantry.jobs j set
        state = 'running', ready = false, attempts = j.attempts + 1, lease = gen_random_uuid(),
        lease_expires_at = now() + lease_for, leased_by = worker, started_at = now()
      from chosen c where j.tenant_id = c.tenant_id and j.id = c.id
      returning j.tenant_id, j.id, j.payload::text, j.attempts, j.max_attempts, j.lease, j.created_at, j.traceparent, c.turn
    loop
      tenant_id := job.tenant_id; id := job.id; kind := step.kind; payload := job.payload; state := 'running';
      attempts := job.attempts; max_attempts := job.max_attempts; lease := job.lease; created_at := job.created_at;
      traceparent := job.traceparent; suspect := false; turn := job.turn;
      return next;
      taken := taken + 1;
      held_kinds := held_kinds || step.kind;
      held_tenants := held_tenants || job.tenant_id;
    end loop;
    own := least(reserved[step.place], taken);
    reserved[step.place] := reserved[step.place] - own;
    rooms[step.place] := rooms[step.place] - taken;
    shared := shared - (taken - own);
  end loop;
end $$;
