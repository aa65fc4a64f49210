with sent as (
  select * from unnest($3::int[], $4::jsonb[], $5::text[], $6::text[], $7::text[], $8::boolean[], $9::boolean[],
    $10::timestamptz[], $11::text[], $12::int[])
    as s (number, errors, email, name, role, verified, active, made_at, hash, line)
), tried as (
  -- An address that stands further up, in this batch or in one before, is left out.
  insert into tenantry.user_import_rows (tenant_id, import_id, number, line, refused, email, name, role, email_verified, is_active,
    made_at, password_hash)
  select $1, $2, s.number, s.line, false, s.email, s.name, s.role, s.verified, s.active, s.made_at, s.hash
  from sent s where s.errors is null order by s.number
  on conflict (tenant_id, import_id, email) where not refused do nothing
  returning number
), refused as (
  insert into tenantry.user_import_rows (tenant_id, import_id, number, line, refused, email, outcome, errors)
  select $1, $2, s.number, s.line, true, s.email, case when s.errors is null then 'repeated' else 'invalid' end, s.errors
  from sent s where not exists (select from tried t where t.number = s.number)
  returning outcome
)
select count(*) filter (where outcome = 'repeated')::int, count(*) filter (where outcome = 'invalid')::int from refused
