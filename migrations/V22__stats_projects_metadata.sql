-- Figures of users and tenants, the projects that users are in, and data that others keep with users and tenants.

insert into job_kinds (kind, required, max_attempts) values ('roll_up_users', '{}', 10);

-- What was counted of a tenant's users, and when. How long it took says how soon it may be counted again.
create table user_stats (
  tenant_id uuid primary key references tenants (id) on delete cascade,
  as_of     timestamptz not null,
  took_ms   int not null check (took_ms >= 0),
  figures   jsonb not null
);
call wall('user_stats');
grant select, insert, update on user_stats to tenantry_app, tenantry_system;

-- Sign-ins are counted out of the primary key: their ids tell when they were. This one is for the prune alone.
create index user_logins_at on user_logins (at);
grant delete on user_logins to tenantry_system;

-- Removes up to batch sign-ins that were longer than keep ago; returns how many.
create function prune_user_logins(keep interval, batch int) returns bigint language plpgsql as $$
declare removed bigint;
begin
  perform set_config('role', 'tenantry_system', true);
  with old as (
    select l.tenant_id, l.user_id, l.id from tenantry.user_logins l where l.at < now() - keep
    order by l.at limit batch
  )
  delete from tenantry.user_logins l using old o
    where l.tenant_id = o.tenant_id and l.user_id = o.user_id and l.id = o.id;
  get diagnostics removed = row_count;
  return removed;
end $$;

-- Projects are somebody else's: their ids are all that is known of them here.
create table user_projects (
  tenant_id  uuid not null,
  user_id    uuid not null,
  project_id text collate "C" not null check (project_id ~ '^[A-Za-z0-9][A-Za-z0-9._~:-]{0,127}$'),
  created_at timestamptz not null default now(),
  primary key (tenant_id, user_id, project_id),
  foreign key (tenant_id, user_id) references users (tenant_id, id) on delete cascade
);
call wall('user_projects');
grant select, insert, delete on user_projects to tenantry_app, tenantry_system;

-- Metadata. Apart from users and tenants: with a version of its own, and in nobody's way who looks a user up.
create function top_level_keys(document jsonb) returns int language sql immutable parallel safe
  as $$ select count(*)::int from jsonb_object_keys(document) $$;

create table user_metadata (
  tenant_id  uuid not null,
  user_id    uuid not null,
  public     jsonb not null default '{}',
  private    jsonb not null default '{}',
  version    bigint not null default 0,
  updated_at timestamptz not null default now(),
  primary key (tenant_id, user_id),
  foreign key (tenant_id, user_id) references users (tenant_id, id) on delete cascade,
  constraint metadata_objects check (jsonb_typeof(public) = 'object' and jsonb_typeof(private) = 'object'),
  constraint metadata_public_size check (octet_length(public::text) <= 16384),
  constraint metadata_private_size check (octet_length(private::text) <= 16384),
  constraint metadata_public_keys check (tenantry.top_level_keys(public) <= 128),
  constraint metadata_private_keys check (tenantry.top_level_keys(private) <= 128)
);
call wall('user_metadata');
grant select, insert, update, delete on user_metadata to tenantry_app, tenantry_system;

create table tenant_metadata (
  tenant_id  uuid primary key references tenants (id) on delete cascade,
  public     jsonb not null default '{}',
  private    jsonb not null default '{}',
  version    bigint not null default 0,
  updated_at timestamptz not null default now(),
  constraint metadata_objects check (jsonb_typeof(public) = 'object' and jsonb_typeof(private) = 'object'),
  constraint metadata_public_size check (octet_length(public::text) <= 16384),
  constraint metadata_private_size check (octet_length(private::text) <= 16384),
  constraint metadata_public_keys check (tenantry.top_level_keys(public) <= 128),
  constraint metadata_private_keys check (tenantry.top_level_keys(private) <= 128)
);
call wall('tenant_metadata');
grant select, insert, update on tenant_metadata to tenantry_app, tenantry_system;

-- RFC 7396. Here and not in the program, which has no type that keeps every number as it was written.
create function merge_patch(target jsonb, patch jsonb) returns jsonb language plpgsql immutable parallel safe as $$
declare
  merged jsonb := case when jsonb_typeof(target) = 'object' then target else '{}' end;
  member record;
begin
  if jsonb_typeof(patch) <> 'object' then
    return patch;
  end if;
  for member in select p.key, p.value from jsonb_each(patch) p loop
    merged := case
      when jsonb_typeof(member.value) = 'null' then merged - member.key
      else merged || jsonb_build_object(member.key, tenantry.merge_patch(merged -> member.key, member.value))
    end;
  end loop;
  return merged;
end $$;

-- What users may be looked up by: texts, numbers and truth values at the top of their metadata. A table of its own, since
-- behind row-level security no index over jsonb could be used: its operators might tell what they are given. Kept by a
-- trigger; a tenant's own role may only read it.
create table user_metadata_keys (
  tenant_id uuid not null,
  scope     text collate "C" not null check (scope in ('public', 'private')),
  key       text collate "C" not null,
  value     text collate "C" not null,
  user_id   uuid not null,
  primary key (tenant_id, scope, key, value, user_id),
  foreign key (tenant_id, user_id) references user_metadata (tenant_id, user_id) on delete cascade
);
create index user_metadata_keys_user on user_metadata_keys (tenant_id, user_id);
call wall('user_metadata_keys');
grant select on user_metadata_keys to tenantry_app, tenantry_system;

-- Longer values than 255 bytes are not looked up, and would not fit an index.
create function metadata_entries(public jsonb, private jsonb) returns table (scope text, key text, value text)
language sql immutable parallel safe as $$
  select d.scope, e.key, e.value #>> '{}'
  from (values ('public', public), ('private', private)) d (scope, document) cross join jsonb_each(d.document) e
  where jsonb_typeof(e.value) in ('string', 'number', 'boolean') and octet_length(e.value #>> '{}') <= 255
$$;

create function metadata_changed() returns trigger language plpgsql security definer set search_path = tenantry, pg_temp as $$ begin
  delete from tenantry.user_metadata_keys k
    where k.tenant_id = new.tenant_id and k.user_id = new.user_id
      and (k.scope, k.key, k.value) not in
        (select e.scope, e.key, e.value from tenantry.metadata_entries(new.public, new.private) e);
  insert into tenantry.user_metadata_keys (tenant_id, scope, key, value, user_id)
    select new.tenant_id, e.scope, e.key, e.value, new.user_id
    from tenantry.metadata_entries(new.public, new.private) e
    on conflict do nothing;
  return null;
end $$;
create trigger metadata_changed after insert or update of public, private on user_metadata for each row
  execute function metadata_changed();
