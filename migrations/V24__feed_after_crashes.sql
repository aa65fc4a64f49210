-- A row with another value after each recovery from a crash. PostgreSQL empties an unlogged table then, and on a standby that
-- is promoted, and keeps it through a clean stop: just when it may hand out ids of transactions for a second time. It does so
-- after a crash with those of transactions that left nothing on the disk: they had rolled back, or were running still.
create unlogged table crash_marks (
  the_only boolean primary key default true check (the_only),
  mark     uuid not null default gen_random_uuid()
);
grant select, insert on crash_marks to tenantry_system;

-- As `revocations_since`, which older programs call. An id of a transaction means something only as long as the server has not
-- been started or recovered since: `server` says which run of it `next` is of, and `seen` counts for nothing with another one.
create function follow_revocations(known_server text, seen xid8, relevant double precision)
returns table (server text, next xid8, tenant_id uuid, subject text, subject_id uuid, min_version bigint)
language plpgsql as $$
declare
  oldest_running xid8 := pg_snapshot_xmin(pg_current_snapshot());
  crash_mark uuid;
begin
  perform set_config('role', 'tenantry_system', true);
  select m.mark into crash_mark from tenantry.crash_marks m;
  if not found then
    insert into tenantry.crash_marks default values on conflict do nothing;
    select m.mark into strict crash_mark from tenantry.crash_marks m;
  end if;
  -- A copy of the database on another server has the mark of this one.
  server := format('%s %s', crash_mark, extract(epoch from pg_postmaster_start_time()));
  if seen is null or known_server is distinct from server then
    return query select server, oldest_running, r.tenant_id, r.subject, r.subject_id, r.min_version
      from (select) always left join tenantry.revocations r
        on r.created_at > clock_timestamp() - make_interval(secs => relevant + 120);
  else
    return query select server, oldest_running, r.tenant_id, r.subject, r.subject_id, r.min_version
      from (select) always left join tenantry.revocations r on r.xid >= seen;
  end if;
end $$;
