-- The queue: tenants take turns, a job that may have killed its worker runs alone, attempts are remembered, and work
-- comes round by itself. The functions of V2 that are not named here stay as they are.

-- ready: due, and in the index that workers lease from. A job that is enqueued for later, or failed, becomes ready when
-- its time has come (promote_jobs). suspect: its worker died or hung while it ran, so it runs alone in its process, and
-- is never ready; alone: the running attempt is such a one; lone_crashes counts those that did not survive it.
-- history: the last twenty attempts that ended in anything but success.
alter table jobs
  add column ready boolean not null default false,
  add column suspect boolean not null default false,
  add column alone boolean not null default false,
  add column lone_crashes int not null default 0,
  add column history jsonb not null default '[]' check (jsonb_typeof(history) = 'array'),
  add constraint jobs_ready_waits check (not ready or (state in ('pending', 'failed') and not suspect)),
  add constraint jobs_alone_runs check (not alone or (state = 'running' and suspect));

create index jobs_ready on jobs (kind, priority desc, tenant_id, run_at) where ready;
create index jobs_delayed on jobs (run_at) where not ready and not suspect and state in ('pending', 'failed');
create index jobs_suspect on jobs (run_at) where suspect and state in ('pending', 'failed');
create index jobs_dead on jobs (kind, id) where state = 'dead';
-- Newest first, and a job by its id alone.
create index jobs_id on jobs (id);
drop index jobs_due;

-- A mail that the server has taken. Goes with its job.
create table sent_mails (
  tenant_id  uuid not null references tenants (id) on delete cascade,
  job_id     uuid not null,
  message_id text not null,
  sent_at    timestamptz not null default now(),
  primary key (tenant_id, job_id),
  foreign key (tenant_id, job_id) references jobs (tenant_id, id) on delete cascade
);
call wall('sent_mails');
grant select, insert on sent_mails to tenantry_app, tenantry_system;

insert into job_kinds (kind, required, max_attempts) values
  ('prune_jobs',    '{}', 10),
  ('purge_deleted', '{}', 10);

-- What is enqueued for the tenant "system" once per period, whatever the number of workers.
create table schedules (
  kind    text primary key references job_kinds (kind),
  every   interval not null check (every >= interval '1 s'),
  next_at timestamptz not null default now()
);
insert into schedules (kind, every) values
  ('prune_jobs',    '10 min'),
  ('purge_deleted', '1 h');
grant select, update on schedules to tenantry_system;

-- The history of a job with its present attempt added.
create function attempt_noted(job jobs, outcome text, error text) returns jsonb language sql stable as $$
  select case when jsonb_array_length(job.history) >= 20 then job.history - 0 else job.history end
    || jsonb_build_array(jsonb_build_object('attempt', job.attempts, 'worker', job.leased_by,
      'started_at', job.started_at, 'ended_at', clock_timestamp(), 'outcome', outcome, 'error', left(error, 500)))
$$;

-- As in V2, and a job that is due is ready at once.
create or replace function enqueue_job(kind text, payload jsonb, tenant_id uuid, run_at timestamptz default now(),
  priority int default 0, unique_key text default null) returns uuid
language plpgsql security definer set search_path = tenantry, pg_temp as $$
#variable_conflict use_column
declare
  known tenantry.job_kinds;
  due   timestamptz := coalesce(enqueue_job.run_at, now());
  made  uuid;
begin
  if enqueue_job.tenant_id is null then
    raise null_value_not_allowed using message = 'tenant_id is required',
      hint = 'work that belongs to no customer is enqueued for the tenant "system"';
  end if;
  perform tenantry.assert_tenant(enqueue_job.tenant_id);
  known := tenantry.known_kind(enqueue_job.kind);
  perform tenantry.assert_shape(known.kind, enqueue_job.payload, known.required, 'payload');

  loop
    insert into tenantry.jobs (tenant_id, kind, payload, max_attempts, run_at, ready, priority, unique_key)
      values (enqueue_job.tenant_id, enqueue_job.kind, enqueue_job.payload, known.max_attempts,
        due, due <= now(), coalesce(enqueue_job.priority, 0), enqueue_job.unique_key)
      on conflict (tenant_id, kind, unique_key) where state = 'pending' and started_at is null do nothing
      returning id into made;
    exit when found;
    -- The lock keeps the waiting job from starting before this transaction commits: started earlier, it could
    -- miss the very change it is enqueued for. If it has just started, it is no longer found, and we go round.
    select j.id into made from tenantry.jobs j
      where j.tenant_id = enqueue_job.tenant_id and j.kind = enqueue_job.kind and j.unique_key = enqueue_job.unique_key
        and j.state = 'pending' and j.started_at is null
      for share;
    exit when found;
  end loop;
  return made;
end $$;

create function known_kind(name text) returns job_kinds language plpgsql stable as $$
declare known tenantry.job_kinds;
begin
  select k.* into known from tenantry.job_kinds k where k.kind = name;
  if not found then
    raise invalid_parameter_value using message = format('unknown kind of job: %s', coalesce(name, 'null')),
      hint = (select 'the kinds are ' || string_agg(k.kind, ', ' order by k.kind) from tenantry.job_kinds k);
  end if;
  return known;
end $$;

-- Enqueues many jobs of one kind and tenant in the caller's transaction; returns their ids in the order of the
-- payloads. One that does not fit refuses all.
create function enqueue_jobs(kind text, payloads jsonb[], tenant_id uuid, run_at timestamptz default now(),
  priority int default 0) returns setof uuid
language plpgsql security definer set search_path = tenantry, pg_temp as $$
#variable_conflict use_column
declare
  known tenantry.job_kinds;
  due   timestamptz := coalesce(enqueue_jobs.run_at, now());
begin
  if enqueue_jobs.tenant_id is null then
    raise null_value_not_allowed using message = 'tenant_id is required',
      hint = 'work that belongs to no customer is enqueued for the tenant "system"';
  end if;
  perform tenantry.assert_tenant(enqueue_jobs.tenant_id);
  known := tenantry.known_kind(enqueue_jobs.kind);
  perform tenantry.assert_shape(known.kind, p.payload, known.required, format('payloads[%s]', p.position - 1))
    from unnest(payloads) with ordinality as p (payload, position);
  return query
    insert into tenantry.jobs (tenant_id, kind, payload, max_attempts, run_at, ready, priority)
      select enqueue_jobs.tenant_id, enqueue_jobs.kind, p.payload, known.max_attempts, due, due <= now(),
        coalesce(enqueue_jobs.priority, 0)
      from unnest(payloads) with ordinality as p (payload, position) order by p.position
      returning id;
end $$;
revoke all on function enqueue_jobs(text, jsonb[], uuid, timestamptz, int) from public;
grant execute on function enqueue_jobs(text, jsonb[], uuid, timestamptz, int) to tenantry_app, tenantry_system;

-- The worker's side, as in V2: each function takes the role tenantry_system and is a transaction of its own.

-- Makes jobs ready whose time has come, at most batch; returns how many.
create function promote_jobs(batch int) returns bigint language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare promoted bigint;
begin
  perform set_config('role', 'tenantry_system', true), set_config('synchronous_commit', 'off', true);
  update tenantry.jobs j set ready = true from (
      select w.tenant_id, w.id from tenantry.jobs w
      where not w.ready and not w.suspect and w.state in ('pending', 'failed') and w.run_at <= now()
      order by w.run_at limit batch for update skip locked
    ) d where j.tenant_id = d.tenant_id and j.id = d.id;
  get diagnostics promoted = row_count;
  return promoted;
end $$;

-- Leases ready jobs to worker. For each of kinds: rooms, how many at most; reserved, how many of these are places of
-- the kind's own, beside the `shared` ones; caps, how many a tenant may hold in the process; cursors, the tenant served
-- last. held_kinds and held_tenants say what the process runs already, one entry a job.
--
-- Higher priorities go first. Within a kind and priority tenants take turns, from the one after the cursor on: each of
-- them costs one look into the index, however many jobs it has waiting. turn is the order within kind and priority.
--
-- With take_suspect, a suspect that waits is leased and nothing else: the worker lets its other jobs end, says so
-- (begin_alone), and runs it.
--
-- First of all jobs whose lease ran out become suspects: their worker died or hangs. One that was alone three times
-- when that happened is dead. They are returned (failed, dead), to be counted.
--
-- The commit is not waited for. A lease that a crash of the database forgets is one that cannot end its job.
create function lease_jobs(worker text, lease_for interval, kinds text[], rooms int[], reserved int[], caps int[],
  cursors uuid[], shared int, held_kinds text[], held_tenants uuid[], take_suspect boolean,
  only_tenant uuid default null, except_ids uuid[] default '{}')
returns table (tenant_id uuid, id uuid, kind text, payload text, state text, attempts int, max_attempts int,
  lease uuid, created_at timestamptz, suspect boolean, turn int)
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
      true, 0;

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
        true, 1;
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
      returning j.tenant_id, j.id, j.payload::text, j.attempts, j.max_attempts, j.lease, j.created_at, c.turn
    loop
      tenant_id := job.tenant_id; id := job.id; kind := step.kind; payload := job.payload; state := 'running';
      attempts := job.attempts; max_attempts := job.max_attempts; lease := job.lease; created_at := job.created_at;
      suspect := false; turn := job.turn;
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

-- For programs of the release before: a fetch without turns, reserved places and suspects.
create or replace function fetch_jobs(worker text, lease_for interval, wanted int, kinds text[], rooms int[],
  only_tenant uuid default null, except_ids uuid[] default '{}')
returns table (tenant_id uuid, id uuid, kind text, payload text, state text, attempts int, max_attempts int,
  lease uuid, created_at timestamptz)
language sql volatile as $$
  select l.tenant_id, l.id, l.kind, l.payload, l.state, l.attempts, l.max_attempts, l.lease, l.created_at
  from tenantry.lease_jobs(worker, lease_for, kinds, rooms, array_fill(0, array[cardinality(kinds)]), rooms, null,
    wanted, '{}', '{}', false, only_tenant, except_ids) l
$$;

-- From here on nothing but this suspect runs in its process: if that dies, it counts. False when the lease is lost. The
-- commit is not waited for: forgotten by a crash of the database, it is not counted.
create function begin_alone(tenant uuid, job uuid, token uuid, lease_for interval) returns boolean
language plpgsql as $$ begin
  perform set_config('role', 'tenantry_system', true), set_config('synchronous_commit', 'off', true);
  update tenantry.jobs set alone = true, started_at = now(), lease_expires_at = now() + lease_for
    where tenant_id = tenant and id = job and lease = token and state = 'running' and suspect;
  return found;
end $$;

-- Extends leases; returns those that are lost. As in V2, and the commit is not waited for.
create or replace function heartbeat_jobs(tenants uuid[], ids uuid[], tokens uuid[], lease_for interval)
returns setof uuid language plpgsql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
begin
  perform set_config('role', 'tenantry_system', true), set_config('synchronous_commit', 'off', true);
  with held as (
    select j.tenant_id, j.id from unnest(tenants, ids, tokens) as h (tenant_id, id, lease)
      join tenantry.jobs j on j.tenant_id = h.tenant_id and j.id = h.id and j.lease = h.lease
      where j.state = 'running' for update of j skip locked
  )
  update tenantry.jobs j set lease_expires_at = now() + lease_for
    from held h where j.tenant_id = h.tenant_id and j.id = h.id;
  return query
    select h.lease from unnest(tenants, ids, tokens) as h (tenant_id, id, lease)
    where not exists (select from tenantry.jobs j
      where j.tenant_id = h.tenant_id and j.id = h.id and j.lease = h.lease);
end $$;

-- Finishes a job as done, cancelled or dead. Returns the state it is in, null when the lease is lost.
create or replace function finish_job(tenant uuid, job uuid, token uuid, outcome text, error text default null)
returns text language plpgsql as $$ begin
  perform set_config('role', 'tenantry_system', true);
  update tenantry.jobs j set state = outcome, finished_at = now(), lease_expires_at = null,
      suspect = false, alone = false, lone_crashes = 0, last_error = coalesce(error, j.last_error),
      history = case outcome when 'done' then j.history else tenantry.attempt_noted(j, outcome, error) end
    where j.tenant_id = tenant and j.id = job and j.lease = token and j.state = 'running';
  return tenantry.leased_job_state(tenant, job, token);
end $$;

-- Finishes many jobs as done. Returns for each lease the state its job is in, null when it is lost.
create function finish_jobs(tenants uuid[], ids uuid[], tokens uuid[]) returns table (lease uuid, state text)
language plpgsql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
begin
  perform set_config('role', 'tenantry_system', true);
  update tenantry.jobs j set state = 'done', finished_at = now(), lease_expires_at = null,
      suspect = false, alone = false, lone_crashes = 0
    from unnest(tenants, ids, tokens) as h (tenant_id, id, lease)
    where j.tenant_id = h.tenant_id and j.id = h.id and j.lease = h.lease and j.state = 'running';
  return query
    select h.lease, j.state from unnest(tenants, ids, tokens) as h (tenant_id, id, lease)
      left join tenantry.jobs j on j.tenant_id = h.tenant_id and j.id = h.id and j.lease = h.lease;
end $$;

-- Completes a leased job inside the transaction of its effect, as in V2.
create or replace function complete_job(tenant uuid, job uuid, token uuid) returns void
language plpgsql security definer set search_path = tenantry, pg_temp as $$ begin
  perform tenantry.assert_tenant(tenant);
  update tenantry.jobs set state = 'done', finished_at = now(), lease_expires_at = null,
      suspect = false, alone = false, lone_crashes = 0
    where tenant_id = tenant and id = job and lease = token and state = 'running';
  if not found then
    raise sqlstate 'TN001' using message = 'the lease of this job is lost',
      hint = 'another worker has the job, or it was cancelled: roll back';
  end if;
end $$;

-- Puts a job back after a failure, as in V2: after the back-off, dead after its last attempt. One whose unique_key a
-- waiting job has is superseded by it, and cancelled: that one will see all that this one would.
create or replace function retry_job(tenant uuid, job uuid, token uuid, error text, least_delay interval,
  base interval, cap interval) returns text language plpgsql as $$
declare successor uuid;
begin
  perform set_config('role', 'tenantry_system', true);
  select w.id into successor from tenantry.jobs j join tenantry.jobs w
      on w.tenant_id = j.tenant_id and w.kind = j.kind and w.unique_key = j.unique_key
    where j.tenant_id = tenant and j.id = job and w.state = 'pending' and w.started_at is null;
  update tenantry.jobs j set
      state = case when successor is not null then 'cancelled'
        when j.attempts >= j.max_attempts then 'dead' else 'failed' end,
      finished_at = case when successor is not null or j.attempts >= j.max_attempts then now() end,
      run_at = now() + least_delay
        + random() * greatest(interval '0', least(cap, base * power(2, least(j.attempts - 1, 30))) - least_delay),
      lease_expires_at = null, suspect = false, alone = false, lone_crashes = 0,
      last_error = coalesce('superseded by ' || successor, error),
      history = tenantry.attempt_noted(j, 'failed', error)
    where j.tenant_id = tenant and j.id = job and j.lease = token and j.state = 'running';
  return tenantry.leased_job_state(tenant, job, token);
end $$;

-- Puts a job back that is not to run yet, without counting the attempt. Returns the state, null when the lease is lost.
create or replace function defer_job(tenant uuid, job uuid, token uuid, delay interval) returns text
language plpgsql as $$ begin
  perform set_config('role', 'tenantry_system', true);
  update tenantry.jobs j set state = 'pending', attempts = j.attempts - 1, run_at = now() + delay,
      lease_expires_at = null, suspect = false, alone = false, lone_crashes = 0,
      history = tenantry.attempt_noted(j, 'snoozed', null)
    where j.tenant_id = tenant and j.id = job and j.lease = token and j.state = 'running';
  return tenantry.leased_job_state(tenant, job, token);
end $$;

-- Hands back a job that has not ended, without counting the attempt: the worker stops. It stays a suspect.
create function release_job(tenant uuid, job uuid, token uuid) returns text language plpgsql as $$ begin
  perform set_config('role', 'tenantry_system', true);
  update tenantry.jobs j set state = 'pending', attempts = j.attempts - 1, run_at = now(), lease_expires_at = null,
      alone = false, history = tenantry.attempt_noted(j, 'released', null)
    where j.tenant_id = tenant and j.id = job and j.lease = token and j.state = 'running';
  return tenantry.leased_job_state(tenant, job, token);
end $$;

-- Seconds for which the oldest due job of each kind has been waiting; kinds with none are left out.
create or replace function oldest_waiting_jobs() returns table (kind text, seconds double precision) language plpgsql
set enable_seqscan = off as $$
#variable_conflict use_column
begin
  perform set_config('role', 'tenantry_system', true);
  return query
    select d.kind, extract(epoch from now() - min(d.run_at))::double precision from (
      select j.kind, min(j.run_at) as run_at from tenantry.jobs j where j.ready group by j.kind
      union all
      select j.kind, min(j.run_at) from tenantry.jobs j
        where not j.ready and not j.suspect and j.state in ('pending', 'failed') and j.run_at <= now() group by j.kind
      union all
      select j.kind, min(j.run_at) from tenantry.jobs j
        where j.suspect and j.state in ('pending', 'failed') and j.run_at <= now() group by j.kind
    ) d where d.run_at <= now() group by d.kind;
end $$;

-- Enqueues what is due by its schedule; returns how many. Each period brings one job, whichever worker comes first;
-- periods that were missed are made up for by one. While the last one still waits, no other is made.
create function enqueue_scheduled() returns bigint language plpgsql as $$
declare
  due  record;
  made bigint := 0;
begin
  perform set_config('role', 'tenantry_system', true);
  for due in
    select s.kind, s.every, s.next_at from tenantry.schedules s where s.next_at <= now() for update skip locked
  loop
    perform tenantry.enqueue_job(due.kind, '{}', '00000000-0000-0000-0000-000000000000', unique_key => 'schedule');
    update tenantry.schedules s set next_at = due.next_at
        + due.every * (floor(extract(epoch from now() - due.next_at) / extract(epoch from due.every)) + 1)
      where s.kind = due.kind;
    made := made + 1;
  end loop;
  return made;
end $$;

-- Removes up to batch users who were deleted longer than keep ago, with all that is theirs; returns how many.
create function purge_deleted_users(keep interval, batch int) returns bigint language plpgsql as $$
declare removed bigint;
begin
  perform set_config('role', 'tenantry_system', true);
  delete from tenantry.users u using (
      select d.tenant_id, d.id from tenantry.users d where d.deleted_at < now() - keep
      order by d.deleted_at limit batch for update skip locked
    ) d where u.tenant_id = d.tenant_id and u.id = d.id;
  get diagnostics removed = row_count;
  return removed;
end $$;
create index users_deleted on users (deleted_at) where deleted_at is not null;
grant delete on users to tenantry_system;

-- The operator's side: inside the caller's transaction, for the tenant's own role or the system's.

-- Tries a job again that failed, was cancelled or is dead: at once, with all its attempts. Returns the state it was in,
-- changed only from those three; null when there is none. It counts as started, so that it holds no unique_key.
create function requeue_job(tenant uuid, job uuid) returns text
language plpgsql security definer set search_path = tenantry, pg_temp as $$
declare was text;
begin
  perform tenantry.assert_tenant(tenant);
  select j.state into was from tenantry.jobs j where j.tenant_id = tenant and j.id = job for update;
  -- What was parked for its crashes stays a suspect and runs alone.
  update tenantry.jobs j set state = 'pending', attempts = 0, lone_crashes = 0, run_at = now(), ready = not j.suspect,
      started_at = coalesce(j.started_at, j.created_at), finished_at = null, lease = null
    where j.tenant_id = tenant and j.id = job and j.state in ('failed', 'cancelled', 'dead');
  return was;
end $$;

-- Cancels a job that waits or runs; whoever runs it can no longer end it. Returns the state it was in, changed only
-- from pending, failed and running; null when there is none.
create function cancel_job(tenant uuid, job uuid, reason text) returns text
language plpgsql security definer set search_path = tenantry, pg_temp as $$
declare was text;
begin
  perform tenantry.assert_tenant(tenant);
  select j.state into was from tenantry.jobs j where j.tenant_id = tenant and j.id = job for update;
  update tenantry.jobs j set state = 'cancelled', ready = false, alone = false, finished_at = now(), lease = null,
      lease_expires_at = null, last_error = reason,
      history = case j.state when 'running' then tenantry.attempt_noted(j, 'cancelled', reason) else j.history end
    where j.tenant_id = tenant and j.id = job and j.state in ('pending', 'failed', 'running');
  return was;
end $$;

-- Tries up to batch dead jobs of a kind again, the oldest first, of one tenant or of all; returns how many.
create function redrive_jobs(only_kind text, only_tenant uuid, batch int) returns bigint
language plpgsql security definer set search_path = tenantry, pg_temp as $$
declare redriven bigint;
begin
  -- All tenants: a tenant of chance, which is nobody's but the system's.
  perform tenantry.assert_tenant(coalesce(only_tenant, gen_random_uuid()));
  perform tenantry.requeue_job(d.tenant_id, d.id) from (
      select j.tenant_id, j.id from tenantry.jobs j
      where j.state = 'dead' and j.kind = only_kind and (only_tenant is null or j.tenant_id = only_tenant)
      order by j.id limit batch for update skip locked
    ) d;
  get diagnostics redriven = row_count;
  return redriven;
end $$;

-- Removes up to batch finished jobs (done, cancelled, dead) in one of states that ended longer than keep ago, of one
-- tenant or of all; returns how many.
create function purge_jobs(states text[], keep interval, only_tenant uuid, batch int) returns bigint
language plpgsql security definer set search_path = tenantry, pg_temp as $$
declare removed bigint;
begin
  -- All tenants: a tenant of chance, which is nobody's but the system's.
  perform tenantry.assert_tenant(coalesce(only_tenant, gen_random_uuid()));
  delete from tenantry.jobs j using (
      select o.tenant_id, o.id from tenantry.jobs o
      where o.state = any (states) and o.state in ('done', 'cancelled', 'dead') and o.finished_at < now() - keep
        and (only_tenant is null or o.tenant_id = only_tenant)
      limit batch for update skip locked
    ) d where j.tenant_id = d.tenant_id and j.id = d.id;
  get diagnostics removed = row_count;
  return removed;
end $$;

revoke all on function requeue_job(uuid, uuid), cancel_job(uuid, uuid, text), redrive_jobs(text, uuid, int),
  purge_jobs(text[], interval, uuid, int) from public;
grant execute on function requeue_job(uuid, uuid), cancel_job(uuid, uuid, text), redrive_jobs(text, uuid, int),
  purge_jobs(text[], interval, uuid, int) to tenantry_app, tenantry_system;

-- Super administrators who look at the jobs of all tenants act as the system.
grant execute on function actor_stands(uuid, uuid, bigint) to tenantry_system;
