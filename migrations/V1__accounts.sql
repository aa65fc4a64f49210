-- Roles. The application logs in as a role of its own that owns nothing and may become one of these two, and
-- only inside a transaction. tenantry_app sees one tenant, tenantry_system sees all. Roles belong to the whole
-- cluster, so another database of it may have made them already.
do $$ begin
  perform pg_advisory_xact_lock(hashtext('tenantry roles'));
  if not exists (select from pg_roles where rolname = 'tenantry_app') then create role tenantry_app nologin; end if;
  if not exists (select from pg_roles where rolname = 'tenantry_system') then create role tenantry_system nologin; end if;
end $$;

grant usage on schema tenantry to tenantry_app, tenantry_system;

-- The tenant of the running transaction; null, and so nobody's, when none was set.
create function current_tenant() returns uuid language sql stable parallel safe
  as $$ select nullif(current_setting('tenantry.tenant', true), '')::uuid $$;

-- Puts a table behind the wall: tenantry_app sees and writes rows of its own tenant, tenantry_system all rows.
create procedure wall(relation regclass, tenant_column name default 'tenant_id') language plpgsql as $$ begin
  execute format('alter table %s enable row level security', relation);
  execute format('create policy tenant on %s to tenantry_app using (%I = (select tenantry.current_tenant()))', relation, tenant_column);
  execute format('create policy system on %s to tenantry_system using (true)', relation);
end $$;

create table tenants (
  id               uuid primary key,
  name             text not null check (length(name) between 1 and 255),
  slug             text not null check (slug ~ '^[a-z0-9]([a-z0-9-]{0,98}[a-z0-9])?$'),
  plan             text not null default 'basic' check (plan in ('basic', 'pro', 'enterprise')),
  storage_limit_gb int not null default 5 check (storage_limit_gb >= 0),
  is_active        boolean not null default true,
  auth_version     bigint not null default 1,
  version          bigint not null default 1,
  created_at       timestamptz not null default now(),
  updated_at       timestamptz not null default now(),
  deleted_at       timestamptz,
  constraint tenants_slug_key unique (slug),
  constraint tenants_slug_is_no_id check (slug !~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$')
);
call wall('tenants', 'id');
grant select, insert, update on tenants to tenantry_app, tenantry_system;

-- The tenant that holds super_admins, and work that belongs to no customer.
insert into tenants (id, name, slug, plan) values ('00000000-0000-0000-0000-000000000000', 'System', 'system', 'enterprise');

-- Seats are one row a tenant, always the first lock of a transaction that adds or removes users. No max: no limit.
create table tenant_seats (
  tenant_id uuid primary key references tenants (id) on delete cascade,
  used      int not null default 0,
  max       int,
  constraint tenant_seats_available check (used >= 0 and (max is null or used <= max or used = 0))
);
call wall('tenant_seats');
grant select, insert, update on tenant_seats to tenantry_app, tenantry_system;
insert into tenant_seats (tenant_id) values ('00000000-0000-0000-0000-000000000000');

-- version goes up by one in every update, deletion included: it orders the cache's entries and is the ETag.
-- auth_version goes up when tokens issued before must stop working.
create table users (
  tenant_id      uuid not null references tenants (id) on delete cascade,
  id             uuid not null,
  email          text not null check (length(email) between 3 and 254),
  name           text not null check (length(name) between 1 and 255),
  role           text not null default 'user' check (role in ('user', 'admin', 'super_admin')),
  is_active      boolean not null default true,
  email_verified boolean not null default false,
  last_login_at  timestamptz,
  auth_version   bigint not null default 1,
  version        bigint not null default 1,
  created_at     timestamptz not null default now(),
  updated_at     timestamptz not null default now(),
  deleted_at     timestamptz,
  primary key (tenant_id, id),
  constraint users_super_admin_tenant check (role <> 'super_admin' or tenant_id = '00000000-0000-0000-0000-000000000000')
);
create unique index users_tenant_email_key on users (tenant_id, email) where deleted_at is null;
create index users_created on users (tenant_id, created_at, id) where deleted_at is null;
call wall('users');
grant select, insert, update on users to tenantry_app, tenantry_system;

-- Apart from users, so that no "all columns of a user" ever holds a hash.
create table credentials (
  tenant_id     uuid not null,
  user_id       uuid not null,
  password_hash text not null,
  updated_at    timestamptz not null default now(),
  primary key (tenant_id, user_id),
  foreign key (tenant_id, user_id) references users (tenant_id, id) on delete cascade
);
call wall('credentials');
grant select, insert, update, delete on credentials to tenantry_app, tenantry_system;

create table sessions (
  tenant_id  uuid not null,
  id         uuid not null,
  user_id    uuid not null,
  user_agent text not null default '',
  address    inet,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  revoked_at timestamptz,
  primary key (tenant_id, id),
  foreign key (tenant_id, user_id) references users (tenant_id, id) on delete cascade
);
create index sessions_user on sessions (tenant_id, user_id) where revoked_at is null;
call wall('sessions');
grant select, insert, update, delete on sessions to tenantry_app, tenantry_system;

-- Refresh tokens are opaque; only their SHA-256 is kept.
create table refresh_tokens (
  tenant_id  uuid not null,
  hash       bytea not null check (length(hash) = 32),
  session_id uuid not null,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  used_at    timestamptz,
  primary key (tenant_id, hash),
  foreign key (tenant_id, session_id) references sessions (tenant_id, id) on delete cascade
);
call wall('refresh_tokens');
grant select, insert, update, delete on refresh_tokens to tenantry_app, tenantry_system;

create table user_logins (
  tenant_id uuid not null,
  user_id   uuid not null,
  id        uuid not null,
  at        timestamptz not null default now(),
  primary key (tenant_id, user_id, id),
  foreign key (tenant_id, user_id) references users (tenant_id, id) on delete cascade
);
call wall('user_logins');
grant select, insert on user_logins to tenantry_app, tenantry_system;

-- The feed that every node follows: what stopped being valid. A session is dead as such; for a user or a tenant
-- tokens below min_version are, for a cached user entries below it whose floor could not be placed in Redis. xid lets a reader resume without a gap: transactions that commit late included.
create table revocations (
  tenant_id   uuid not null references tenants (id) on delete cascade,
  id          bigint generated always as identity,
  xid         xid8 not null default pg_current_xact_id(),
  subject     text not null check (subject in ('session', 'user', 'tenant', 'cached_user')),
  subject_id  uuid not null,
  min_version bigint,
  created_at  timestamptz not null default now(),
  primary key (tenant_id, id),
  check ((subject = 'session') = (min_version is null))
);
create index revocations_xid on revocations (xid);
call wall('revocations');
grant select, insert on revocations to tenantry_app, tenantry_system;
grant delete on revocations to tenantry_system;

-- What was committed since a reader last looked: rows from transaction `seen` on, or, without one, those of the last
-- `relevant` seconds; at least one row, with the transaction to ask from next. It is taken before the rows are read: a
-- transaction that was running then is asked for again, and none is missed.
create function revocations_since(seen xid8, relevant double precision)
returns table (next xid8, tenant_id uuid, subject text, subject_id uuid, min_version bigint) language plpgsql as $$
declare oldest_running xid8 := pg_snapshot_xmin(pg_current_snapshot());
begin
  perform set_config('role', 'tenantry_system', true);
  return query select oldest_running, r.tenant_id, r.subject, r.subject_id, r.min_version
    from (select) always left join tenantry.revocations r
      on case when seen is null then r.created_at > now() - make_interval(secs => relevant) else r.xid >= seen end;
end $$;

-- Tokens that travel by mail: only the hash is stored, bound to user and address, used at most once. job_id is the
-- mail they went out with: a mail sent twice by a crash leaves both its tokens valid, a newer mail voids them.
create table email_tokens (
  tenant_id  uuid not null,
  hash       bytea not null check (length(hash) = 32),
  purpose    text not null check (purpose in ('verify_email')),
  user_id    uuid not null,
  email      text not null,
  job_id     uuid not null,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  used_at    timestamptz,
  primary key (tenant_id, hash),
  foreign key (tenant_id, user_id) references users (tenant_id, id) on delete cascade
);
create index email_tokens_user on email_tokens (tenant_id, user_id, purpose);
call wall('email_tokens');
grant select, insert, update, delete on email_tokens to tenantry_app, tenantry_system;

-- Who did what, written in the same transaction; never updated, never deleted by the application.
create table audit_events (
  tenant_id  uuid not null references tenants (id) on delete cascade,
  id         uuid not null,
  at         timestamptz not null default now(),
  actor_id   uuid,
  action     text not null,
  subject_id uuid not null,
  detail     jsonb not null default '{}',
  primary key (tenant_id, id)
);
create index audit_events_at on audit_events (tenant_id, at, id);
call wall('audit_events');
grant select, insert on audit_events to tenantry_app, tenantry_system;

-- The point reads below set role and tenant and select: one statement, one round trip, its own transaction, safe
-- when the request is dropped and behind a transaction pooler.

-- A cold look-up. Deleted users come too: the cache keeps them as entries with a version of their own.
create function user_by_id(tenant uuid, user_id uuid) returns setof users language plpgsql as $$ begin
  perform set_config('role', 'tenantry_app', true), set_config('tenantry.tenant', tenant::text, true);
  return query select u.* from tenantry.users u where u.tenant_id = tenant and u.id = user_id;
end $$;

-- The same for many at once.
create function users_by_id(tenant uuid, user_ids uuid[]) returns setof users language plpgsql as $$ begin
  perform set_config('role', 'tenantry_app', true), set_config('tenantry.tenant', tenant::text, true);
  return query select u.* from tenantry.users u where u.tenant_id = tenant and u.id = any(user_ids);
end $$;

-- The same by address, which a deleted user no longer has.
create function user_by_email(tenant uuid, address text) returns setof users language plpgsql as $$ begin
  perform set_config('role', 'tenantry_app', true), set_config('tenantry.tenant', tenant::text, true);
  return query select u.* from tenantry.users u
    where u.tenant_id = tenant and u.email = address and u.deleted_at is null;
end $$;

-- A tenant by its id or its slug; a slug never has the shape of an id.
create function tenant_id_of(reference text) returns uuid language plpgsql stable as $$ begin
  if reference ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
    return (select t.id from tenantry.tenants t where t.id = reference::uuid and t.deleted_at is null);
  end if;
  return (select t.id from tenantry.tenants t where t.slug = reference and t.deleted_at is null);
end $$;

-- Whether the user whose token says auth_version `seen_version` may still act: active, and not changed since in what the
-- token says. Sees past the wall, because a super administrator is of another tenant, and tells only yes or no.
create function actor_stands(tenant uuid, actor uuid, seen_version bigint) returns boolean
language sql stable security definer set search_path = tenantry, pg_temp as $$
  select exists (
    select from users u join tenants t on t.id = u.tenant_id
    where u.tenant_id = tenant and u.id = actor and u.auth_version = seen_version and u.is_active and u.deleted_at is null
      and t.is_active and t.deleted_at is null
  )
$$;

-- What a login needs, by the tenant's id or slug and the normalised address. Tenants that are suspended and users
-- that are inactive or deleted are not found.
create function login_by_email(tenant text, address text)
returns table (tenant_id uuid, user_id uuid, password_hash text) language plpgsql as $$
declare found uuid;
begin
  perform set_config('role', 'tenantry_system', true);
  select t.id into found from tenantry.tenants t where t.id = tenantry.tenant_id_of(tenant) and t.is_active;
  perform set_config('role', 'tenantry_app', true), set_config('tenantry.tenant', coalesce(found::text, ''), true);
  return query select u.tenant_id, u.id, c.password_hash
    from tenantry.users u join tenantry.credentials c on c.tenant_id = u.tenant_id and c.user_id = u.id
    where u.tenant_id = found and u.email = address and u.is_active and u.deleted_at is null;
end $$;

revoke all on function actor_stands(uuid, uuid, bigint) from public;
grant execute on function actor_stands(uuid, uuid, bigint) to tenantry_app;

-- Only migrations may put tables behind the wall.
revoke all on procedure wall(regclass, name) from public;
