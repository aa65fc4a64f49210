-- When a row of the feed was written, and not when its transaction began.
alter table revocations alter column created_at set default clock_timestamp();

-- For those who look for the first time, and for the pruning.
create index revocations_created_at on revocations (created_at);
create index revocations_cached_user on revocations (created_at) where subject = 'cached_user';

-- As before, in two respects better. Each question is a statement of its own, so that both use an index. And a first look goes
-- back two minutes further than what is relevant: that counts from COMMIT, and a row may be older than its COMMIT by as much as
-- a transaction can take (fifteen statements, each of which may run for 3 s and be waited for 5 s).
create or replace function revocations_since(seen xid8, relevant double precision)
returns table (next xid8, tenant_id uuid, subject text, subject_id uuid, min_version bigint) language plpgsql as $$
declare oldest_running xid8 := pg_snapshot_xmin(pg_current_snapshot());
begin
  perform set_config('role', 'tenantry_system', true);
  if seen is null then
    return query select oldest_running, r.tenant_id, r.subject, r.subject_id, r.min_version
      from (select) always left join tenantry.revocations r
        on r.created_at > clock_timestamp() - make_interval(secs => relevant + 120);
  else
    return query select oldest_running, r.tenant_id, r.subject, r.subject_id, r.min_version
      from (select) always left join tenantry.revocations r on r.xid >= seen;
  end if;
end $$;

-- Deletes rows about cached users that nobody needs any more, at most so many; returns how many. The others stay: what they say
-- of tokens holds for as long as tokens live.
create function prune_revocations(older_than double precision, at_most int) returns bigint language plpgsql as $$
declare pruned bigint;
begin
  perform set_config('role', 'tenantry_system', true);
  delete from tenantry.revocations r using (
    select o.tenant_id, o.id from tenantry.revocations o
    where o.subject = 'cached_user' and o.created_at < clock_timestamp() - make_interval(secs => older_than)
    order by o.created_at limit at_most
  ) old
  where r.tenant_id = old.tenant_id and r.id = old.id;
  get diagnostics pruned = row_count;
  return pruned;
end $$;
