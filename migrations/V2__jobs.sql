-- Jobs. Producers in any language enqueue with enqueue_job() inside the transaction that makes the job true, so a
-- job exists exactly when that transaction commits. Workers lease jobs, one lease a job; whatever a worker wants to
-- say about a job names the lease, so one that was thought dead and wakes up again can change nothing.

-- RFC 9562: 48 bits of milliseconds, then the version, then chance. PostgreSQL has its own from 18 on.
create function uuid_v7() returns uuid language sql volatile parallel safe
  as $$ select encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
    placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
    from 1 for 6), 52, 1), 53, 1), 'hex')::uuid $$;

-- What may be enqueued. required is the shape of a payload: the keys that must be there, each with the name of its
-- type, an array of one shape, or an object of further keys. Keys beyond those are welcome. A test compares this
-- table with the types of the workers.
create table job_kinds (
  kind         text primary key check (kind ~ '^[a-z][a-z0-9_]{0,62}$'),
  required     jsonb not null check (jsonb_typeof(required) = 'object'),
  max_attempts int not null check (max_attempts > 0)
);
insert into job_kinds (kind, required, max_attempts) values
  ('verify_email',    '{"user_id": "uuid"}', 25),
  ('invalidate_user', '{"users": [{"id": "uuid", "version": "integer"}]}', 86400);
grant select on job_kinds to tenantry_app, tenantry_system;

-- failed waits for its next try; dead was given up and waits for a person. Work that belongs to no customer is done
-- for the tenant "system". A lease stays on its row after the job is finished: it proves who finished it.
create table jobs (
  tenant_id        uuid not null references tenants (id) on delete cascade,
  id               uuid not null default uuid_v7(),
  kind             text not null,
  payload          jsonb not null check (jsonb_typeof(payload) = 'object'),
  state            text not null default 'pending'
    check (state in ('pending', 'running', 'done', 'failed', 'dead', 'cancelled')),
  priority         int not null default 0,
  run_at           timestamptz not null default now(),
  unique_key       text check (length(unique_key) between 1 and 255),
  attempts         int not null default 0,
  max_attempts     int not null check (max_attempts > 0),
  crashes          int not null default 0,
  lease            uuid,
  lease_expires_at timestamptz,
  leased_by        text,
  last_error       text,
  created_at       timestamptz not null default now(),
  started_at       timestamptz,
  finished_at      timestamptz,
  primary key (tenant_id, id),
  constraint jobs_running_is_leased check ((state = 'running') = (lease_expires_at is not null))
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
-- A queue is a table that changes wholly every few minutes: vacuum it early.

create index jobs_due on jobs (kind, priority desc, run_at) where state in ('pending', 'failed');
create index jobs_leased on jobs (lease_expires_at) where state = 'running';
create index jobs_finished on jobs (finished_at) where state in ('done', 'cancelled');
-- Waiting means never started: a running job blocks no successor, and neither does one that was handed back, which
-- may have read its data before the change that the successor is about.
create unique index jobs_unique_key on jobs (tenant_id, kind, unique_key) where state = 'pending' and started_at is null;

-- Not forced for the owner: enqueue_job() and complete_job() work as the owner and check the wall themselves.
call wall('jobs');
grant select on jobs to tenantry_app;
grant select, insert, update, delete on jobs to tenantry_system;

-- Refuses a caller behind the wall any tenant but its own. Inside a security definer function current_user is the
-- owner, so the setting "role" tells who called; "none" is the login itself, which may inherit one of the roles.
create function assert_tenant(tenant uuid) returns void language plpgsql stable as $$
declare caller name := coalesce(nullif(current_setting('role'), 'none'), session_user);
begin
  if not pg_has_role(caller, 'tenantry_system', 'usage') and tenant is distinct from tenantry.current_tenant() then
    raise insufficient_privilege using
      message = 'jobs of another tenant are out of reach',
      hint = 'set tenantry.tenant to the tenant of the job, in the same transaction';
  end if;
end $$;

-- Raises when value lacks the shape. Messages name keys and types, never values.
create function assert_shape(kind text, value jsonb, shape jsonb, path text) returns void language plpgsql immutable as $$
declare
  wanted text := case jsonb_typeof(shape) when 'string' then shape #>> '{}' else jsonb_typeof(shape) end;
  fits   boolean;
  entry  record;
begin
  fits := case wanted
    when 'uuid' then jsonb_typeof(value) = 'string'
      and value #>> '{}' ~* '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
    when 'integer' then case when jsonb_typeof(value) = 'number'
      then value #>> '{}' ~ '^-?[0-9]+$' and (value #>> '{}')::numeric between -9223372036854775808 and 9223372036854775807 end
    else jsonb_typeof(value) = wanted end;
  if fits is not true then
    raise invalid_parameter_value using
      message = format('payload of a %s job: %s must be of type %s', kind, path, wanted),
      hint = 'compare it with openapi/jobs.schema.json';
  end if;
  if jsonb_typeof(shape) = 'array' then
    for entry in select e.item, e.position from jsonb_array_elements(value) with ordinality as e (item, position) loop
      perform tenantry.assert_shape(kind, entry.item, shape -> 0, format('%s[%s]', path, entry.position - 1));
    end loop;
  elsif jsonb_typeof(shape) = 'object' then
    for entry in select e.key, e.value as inner_shape from jsonb_each(shape) as e loop
      if not value ? entry.key then
        raise invalid_parameter_value using
          message = format('payload of a %s job: %s.%s is required', kind, path, entry.key),
          hint = 'compare it with openapi/jobs.schema.json';
      end if;
      perform tenantry.assert_shape(kind, value -> entry.key, entry.inner_shape, format('%s.%s', path, entry.key));
    end loop;
  end if;
end $$;

-- Enqueues a job in the caller's transaction and returns its id; with a unique_key that a waiting job of the same
-- tenant and kind has, returns that job's id instead.
create function enqueue_job(kind text, payload jsonb, tenant_id uuid, run_at timestamptz default now(),
  priority int default 0, unique_key text default null) returns uuid
language plpgsql security definer set search_path = tenantry, pg_temp as $$
#variable_conflict use_column
declare
  known tenantry.job_kinds;
  made  uuid;
begin
  if enqueue_job.tenant_id is null then
    raise null_value_not_allowed using message = 'tenant_id is required',
      hint = 'work that belongs to no customer is enqueued for the tenant "system"';
  end if;
  perform tenantry.assert_tenant(enqueue_job.tenant_id);
  select k.* into known from tenantry.job_kinds k where k.kind = enqueue_job.kind;
  if not found then
    raise invalid_parameter_value using message = format('unknown kind of job: %s', coalesce(enqueue_job.kind, 'null')),
      hint = (select 'the kinds are ' || string_agg(k.kind, ', ' order by k.kind) from tenantry.job_kinds k);
  end if;
  perform tenantry.assert_shape(known.kind, enqueue_job.payload, known.required, 'payload');

  loop
    insert into tenantry.jobs (tenant_id, kind, payload, max_attempts, run_at, priority, unique_key)
      values (enqueue_job.tenant_id, enqueue_job.kind, enqueue_job.payload, known.max_attempts,
        coalesce(enqueue_job.run_at, now()), coalesce(enqueue_job.priority, 0), enqueue_job.unique_key)
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
revoke all on function enqueue_job(text, jsonb, uuid, timestamptz, int, text) from public;
grant execute on function enqueue_job(text, jsonb, uuid, timestamptz, int, text) to tenantry_app, tenantry_system;

-- Completes a leased job inside the transaction of its effect: both happen or neither. Raises when the lease is
-- lost, which leaves that transaction nothing but to roll back.
create function complete_job(tenant uuid, job uuid, token uuid) returns void
language plpgsql security definer set search_path = tenantry, pg_temp as $$ begin
  perform tenantry.assert_tenant(tenant);
  update tenantry.jobs set state = 'done', finished_at = now(), lease_expires_at = null
    where tenant_id = tenant and id = job and lease = token and state = 'running';
  if not found then
    raise sqlstate 'TN001' using message = 'the lease of this job is lost',
      hint = 'another worker has the job, or it was cancelled: roll back';
  end if;
end $$;
revoke all on function complete_job(uuid, uuid, uuid) from public;
grant execute on function complete_job(uuid, uuid, uuid) to tenantry_app, tenantry_system;

-- The worker's side. Each function takes the role tenantry_system and does its work: one statement, one round trip,
-- its own transaction, safe behind a pooler. A login that may not become tenantry_system fails on the first line.
-- They are never called inside a longer transaction, which would keep the role.

-- Leases up to wanted due jobs, at most rooms[i] of kinds[i], highest priority first. Jobs whose lease ran out come
-- first: their worker died or hangs. They are due at once, but the third crash parks a job, as does its last attempt.
-- Returns the leased jobs (running) and those found crashed (failed, dead), which are there to be counted.
create function fetch_jobs(worker text, lease_for interval, wanted int, kinds text[], rooms int[],
  only_tenant uuid default null, except_ids uuid[] default '{}')
returns table (tenant_id uuid, id uuid, kind text, payload text, state text, attempts int, max_attempts int,
  lease uuid, created_at timestamptz)
language plpgsql as $$
#variable_conflict use_column
begin
  perform set_config('role', 'tenantry_system', true);
  return query
    with crashed as (
      select j.tenant_id, j.id from tenantry.jobs j
      where j.state = 'running' and j.lease_expires_at < now() and j.kind = any (kinds)
        and (only_tenant is null or j.tenant_id = only_tenant)
      limit 100 for update skip locked
    )
    update tenantry.jobs j set
      state = case when j.crashes >= 2 or j.attempts >= j.max_attempts then 'dead' else 'failed' end,
      finished_at = case when j.crashes >= 2 or j.attempts >= j.max_attempts then now() end,
      crashes = j.crashes + 1, run_at = now(), lease = null, lease_expires_at = null,
      last_error = format('the lease of worker %s ran out', j.leased_by)
    from crashed c where j.tenant_id = c.tenant_id and j.id = c.id
    returning j.tenant_id, j.id, j.kind, null::text, j.state, j.attempts, j.max_attempts, null::uuid, j.created_at;
  return query
    with due as (
      select d.tenant_id, d.id from unnest(kinds, rooms) as k (kind, room), lateral (
        select j.tenant_id, j.id, j.priority, j.run_at from tenantry.jobs j
        where j.kind = k.kind and j.state in ('pending', 'failed') and j.run_at <= now()
          and (only_tenant is null or j.tenant_id = only_tenant) and j.id <> all (except_ids)
        order by j.priority desc, j.run_at
        limit least(k.room, wanted) for update skip locked
      ) d
      order by d.priority desc, d.run_at limit wanted
    )
    update tenantry.jobs j set
      state = 'running', attempts = j.attempts + 1, lease = gen_random_uuid(), lease_expires_at = now() + lease_for,
      leased_by = worker, started_at = now()
    from due d where j.tenant_id = d.tenant_id and j.id = d.id
    returning j.tenant_id, j.id, j.kind, j.payload::text, j.state, j.attempts, j.max_attempts, j.lease, j.created_at;
end $$;

-- Extends leases; returns those that are lost. Rows that are locked are in somebody's transaction, often the one
-- that completes the job: they are passed over, so that one slow commit does not let all other leases run out.
create function heartbeat_jobs(tenants uuid[], ids uuid[], tokens uuid[], lease_for interval) returns setof uuid
language plpgsql as $$ begin
  perform set_config('role', 'tenantry_system', true);
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

-- The state a job is in for the holder of this lease; null when the lease is lost. Not "running" any more means
-- that complete_job() has already finished it.
create function leased_job_state(tenant uuid, job uuid, token uuid) returns text language sql stable
  as $$ select j.state from tenantry.jobs j where j.tenant_id = tenant and j.id = job and j.lease = token $$;

-- Finishes a job as done, cancelled or dead. Returns the state it is in, null when the lease is lost.
create function finish_job(tenant uuid, job uuid, token uuid, outcome text, error text default null) returns text
language plpgsql as $$ begin
  perform set_config('role', 'tenantry_system', true);
  update tenantry.jobs set state = outcome, finished_at = now(), lease_expires_at = null,
      last_error = coalesce(error, last_error)
    where tenant_id = tenant and id = job and lease = token and state = 'running';
  return tenantry.leased_job_state(tenant, job, token);
end $$;

-- Puts a job back after a failure, dead after its last attempt. The delay is drawn from least_delay up to base
-- doubled with each attempt, at most cap ("full jitter", AWS Builders' Library): failures that came together do not
-- come back together. Returns the state, null when the lease is lost.
create function retry_job(tenant uuid, job uuid, token uuid, error text, least_delay interval, base interval, cap interval)
returns text language plpgsql as $$ begin
  perform set_config('role', 'tenantry_system', true);
  update tenantry.jobs set
      state = case when attempts >= max_attempts then 'dead' else 'failed' end,
      finished_at = case when attempts >= max_attempts then now() end,
      run_at = now() + least_delay
        + random() * greatest(interval '0', least(cap, base * power(2, least(attempts - 1, 30))) - least_delay),
      lease_expires_at = null, last_error = error
    where tenant_id = tenant and id = job and lease = token and state = 'running';
  return tenantry.leased_job_state(tenant, job, token);
end $$;

-- Hands a job back without counting the attempt, to run again after delay. Returns the state, null when the lease
-- is lost.
create function defer_job(tenant uuid, job uuid, token uuid, delay interval) returns text
language plpgsql as $$ begin
  perform set_config('role', 'tenantry_system', true);
  update tenantry.jobs set state = 'pending', attempts = attempts - 1, run_at = now() + delay, lease_expires_at = null
    where tenant_id = tenant and id = job and lease = token and state = 'running';
  return tenantry.leased_job_state(tenant, job, token);
end $$;

-- Removes jobs that have become moot before they ran; returns how many. Running jobs are left alone.
create function discard_jobs(tenants uuid[], ids uuid[]) returns bigint language plpgsql as $$
declare removed bigint;
begin
  perform set_config('role', 'tenantry_system', true);
  delete from tenantry.jobs j using unnest(tenants, ids) as d (tenant_id, id)
    where j.tenant_id = d.tenant_id and j.id = d.id and j.state in ('pending', 'failed');
  get diagnostics removed = row_count;
  return removed;
end $$;

-- Seconds for which the oldest due job of each kind has been waiting; kinds with none are left out.
create function oldest_waiting_jobs() returns table (kind text, seconds double precision) language plpgsql as $$
#variable_conflict use_column
begin
  perform set_config('role', 'tenantry_system', true);
  return query select j.kind, extract(epoch from now() - min(j.run_at))::double precision from tenantry.jobs j
    where j.state in ('pending', 'failed') and j.run_at <= now() group by j.kind;
end $$;

-- Removes up to batch jobs that were done or cancelled longer than keep ago; returns how many. The dead stay.
create function prune_jobs(keep interval, batch int) returns bigint language plpgsql as $$
declare removed bigint;
begin
  perform set_config('role', 'tenantry_system', true);
  delete from tenantry.jobs j using (
      select o.tenant_id, o.id from tenantry.jobs o
      where o.state in ('done', 'cancelled') and o.finished_at < now() - keep
      order by o.finished_at limit batch for update skip locked
    ) d where j.tenant_id = d.tenant_id and j.id = d.id;
  get diagnostics removed = row_count;
  return removed;
end $$;
