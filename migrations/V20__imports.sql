-- Imports of users: rows that were sent are staged here and worked on by whichever worker is free, a batch at a time. How far
-- an import has come is a part of each batch's transaction, so that it is resumed where it was, with no row twice and none lost.

-- Who began it is noted so that each batch can ask whether they still may: actor_kind, and what a token says of a user.
-- position is the number of the last row that was worked on. touched_at is when it moved last, at its own time: an upload that
-- has broken off is known by it. The counters are what became of rows so far; lately_rows and lately_took say how fast it went.
create table user_imports (
  tenant_id     uuid not null references tenants (id) on delete cascade,
  id            uuid not null,
  state         text not null default 'uploading'
    check (state in ('uploading', 'queued', 'running', 'done', 'cancelled', 'failed')),
  reason        text check (length(reason) between 1 and 63),
  format        text not null check (format in ('csv', 'ndjson')),
  dry_run       boolean not null,
  invite        boolean not null,
  actor_home    uuid not null,
  actor_kind    text not null check (actor_kind in ('user', 'api_key', 'operator')),
  actor_id      uuid,
  actor_role    text not null check (actor_role in ('user', 'admin', 'super_admin')),
  actor_version bigint,
  actor_session uuid,
  actor_address cidr,
  position      int not null default 0 check (position >= 0),
  total         int not null default 0,
  created       int not null default 0,
  skipped       int not null default 0,
  failed        int not null default 0,
  lately_rows   double precision not null default 0,
  lately_took   double precision not null default 0,
  created_at    timestamptz not null default now(),
  touched_at    timestamptz not null default now(),
  started_at    timestamptz,
  finished_at   timestamptz,
  keep_until    timestamptz,
  primary key (tenant_id, id),
  constraint user_imports_counted check (least(total, created, skipped, failed) >= 0 and created + skipped + failed <= total),
  constraint user_imports_kept check ((finished_at is null) = (keep_until is null)),
  constraint user_imports_actor check ((actor_kind = 'operator') = (actor_id is null)
    and (actor_kind = 'user') = (actor_version is not null) and (actor_kind = 'user') = (actor_session is not null))
);
create index user_imports_kept on user_imports (keep_until) where keep_until is not null;
create index user_imports_open on user_imports (touched_at) where finished_at is null;
call wall('user_imports');
grant select, insert, update, delete on user_imports to tenantry_app, tenantry_system;

-- A row as it was sent. One that is wrong or repeats an address has its outcome from the beginning (refused). The hash of a
-- password goes with the outcome. What changes later is in no index, so that it costs no entry in one.
create table user_import_rows (
  tenant_id      uuid not null,
  import_id      uuid not null,
  number         int not null check (number > 0),
  line           int not null check (line > 0),
  refused        boolean not null,
  email          text check (length(email) <= 254),
  name           text check (length(name) <= 255),
  role           text check (role in ('user', 'admin', 'super_admin')),
  email_verified boolean not null default false,
  is_active      boolean not null default true,
  made_at        timestamptz,
  password_hash  text check (length(password_hash) <= 1024),
  outcome        text check (outcome in ('created', 'exists', 'repeated', 'invalid', 'role_forbidden', 'hash_forbidden',
    'verified_forbidden', 'no_seat', 'cancelled')),
  errors         jsonb check (jsonb_typeof(errors) = 'array'),
  user_id        uuid,
  primary key (tenant_id, import_id, number),
  foreign key (tenant_id, import_id) references user_imports (tenant_id, id) on delete cascade,
  constraint user_import_rows_whole check (refused or (email is not null and name is not null and role is not null)),
  constraint user_import_rows_hash check (outcome is null or password_hash is null)
) with (fillfactor = 70);
-- An address is tried once in an import.
create unique index user_import_rows_email on user_import_rows (tenant_id, import_id, email) where not refused;
call wall('user_import_rows');
grant select, insert, update, delete on user_import_rows to tenantry_app, tenantry_system;

insert into job_kinds (kind, required, max_attempts) values ('import_users', '{"import_id": "uuid"}', 50);

-- Removes up to batch rows of imports that are kept no longer, and those imports that have none left; of those that nobody has
-- moved for longer than idle, ends what nobody will end: an upload is forgotten, what was worked on has failed. Returns how
-- much was done.
create function purge_imports(idle_upload interval, idle_work interval, keep interval, batch int) returns bigint language plpgsql as $$
declare
  removed bigint;
  changed bigint;
begin
  perform set_config('role', 'tenantry_system', true);
  with idle as (
    select o.tenant_id, o.id from tenantry.user_imports o
    where o.finished_at is null
      and o.touched_at < now() - case o.state when 'uploading' then idle_upload else idle_work end
    order by o.touched_at limit batch for update skip locked
  ), ended as (
    update tenantry.user_imports i set state = 'failed', reason = 'abandoned', finished_at = now(),
        keep_until = case i.state when 'uploading' then now() else now() + keep end
    from idle where i.tenant_id = idle.tenant_id and i.id = idle.id
    returning i.tenant_id, i.id
  )
  -- Its hashes go with the outcomes of the rows that are left.
  select count(tenantry.enqueue_job('import_users', jsonb_build_object('import_id', e.id), e.tenant_id)) into changed from ended e;
  with old as (
    select r.tenant_id, r.import_id, r.number from tenantry.user_imports i
      join tenantry.user_import_rows r on r.tenant_id = i.tenant_id and r.import_id = i.id
    where i.keep_until <= now() limit batch
  )
  delete from tenantry.user_import_rows r using old o
    where r.tenant_id = o.tenant_id and r.import_id = o.import_id and r.number = o.number;
  get diagnostics removed = row_count;
  if removed < batch then
    delete from tenantry.user_imports i where i.keep_until <= now()
      and not exists (select from tenantry.user_import_rows r where r.tenant_id = i.tenant_id and r.import_id = i.id);
  end if;
  return greatest(removed, changed);
end $$;
