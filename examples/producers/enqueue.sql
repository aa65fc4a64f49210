-- Enqueues a job in the transaction that makes it true: psql "$DATABASE_URL" -v tenant=... -v user=... -v end=commit -f enqueue.sql
-- The login may become tenantry_app, and nothing else (docs/jobs.md).
\set ON_ERROR_STOP on
begin;
select set_config('role', 'tenantry_app', true), set_config('tenantry.tenant', :'tenant', true) \g /dev/null
-- Your own change goes here. With `end=rollback` neither it nor the job has ever been.
select tenantry.enqueue_job(
  kind      => 'verify_email',
  payload   => jsonb_build_object('user_id', :'user'),
  tenant_id => :'tenant') as job \gset
:end;
\echo :job
