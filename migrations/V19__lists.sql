-- Lists and search of users that cost the same however many a tenant has. Takes a minute for each million users, in which
-- users can be read and not changed; the four indexes of the lists may be built before, concurrently.

-- Sorted lists. What a list may be filtered by comes before what it is sorted by: each combination of the three is a range
-- that is read in order, so a page is read off the ends of at most six of them, however few or many users a filter lets
-- through. The id ends ties. Each of them has all that a page is made of: pages that are skipped are not read.
create index if not exists users_by_created_at on users (tenant_id, is_active, role, email_verified, created_at, id)
  where deleted_at is null;
create index if not exists users_by_email on users (tenant_id, is_active, role, email_verified, email, id)
  include (created_at) where deleted_at is null;
create index if not exists users_by_name on users (tenant_id, is_active, role, email_verified, name, id)
  include (created_at) where deleted_at is null;
create index if not exists users_by_last_login_at on users (tenant_id, is_active, role, email_verified, last_login_at, id)
  include (created_at) where deleted_at is null;
drop index users_created;

-- Both are trusted: whoever may create in the database may create them.
create extension if not exists pg_trgm;
create extension if not exists btree_gin;

-- What a search looks into: name and address in lower case, a space before each word, and between the two what nobody can
-- ask for.
create function search_words(name text, email text) returns text language sql immutable parallel safe
  as $$ select lower(' ' || name || E' \n ' || email) $$;

-- The words of those who are not deleted. Apart from users, so that signing in, which changes the row of a user, does not
-- write some forty entries of the index anew. Kept by triggers, and read by search_users: a tenant's own role may do neither.
create table user_search (
  tenant_id uuid not null references tenants (id) on delete cascade,
  user_id   uuid not null,
  words     text not null,
  primary key (tenant_id, user_id)
);
call wall('user_search');
grant select on user_search to tenantry_system;

create function search_words_added() returns trigger language plpgsql security definer set search_path = tenantry, pg_temp as $$ begin
  insert into tenantry.user_search (tenant_id, user_id, words)
    select a.tenant_id, a.id, tenantry.search_words(a.name, a.email) from added a where a.deleted_at is null;
  return null;
end $$;
create trigger search_words_added after insert on users referencing new table as added
  for each statement execute function search_words_added();

create function search_words_changed() returns trigger language plpgsql security definer set search_path = tenantry, pg_temp as $$ begin
  if tg_op = 'DELETE' or new.deleted_at is not null then
    delete from tenantry.user_search s where s.tenant_id = old.tenant_id and s.user_id = old.id;
  else
    insert into tenantry.user_search (tenant_id, user_id, words)
      values (new.tenant_id, new.id, tenantry.search_words(new.name, new.email))
      on conflict (tenant_id, user_id) do update set words = excluded.words;
  end if;
  return null;
end $$;
create trigger search_words_changed after update of name, email, deleted_at on users for each row
  when ((old.name, old.email, old.deleted_at) is distinct from (new.name, new.email, new.deleted_at))
  execute function search_words_changed();
create trigger search_words_removed after delete on users for each row
  when (old.deleted_at is null) execute function search_words_changed();

insert into user_search (tenant_id, user_id, words)
  select tenant_id, id, search_words(name, email) from users where deleted_at is null order by tenant_id, id;

-- What is written waits in a list that every search has to read; a short one costs it no millisecond. The tenant is a text
-- here so that no other index has what is asked for, and the planner cannot prefer to read all of a tenant. The database may
-- have the extension already, in a schema of its own.
do $$ begin
  execute format('create index user_search_words on user_search using gin ((tenant_id::text), words %I.gin_trgm_ops)
    with (gin_pending_list_limit = 512)', (select extnamespace::regnamespace::name from pg_extension where extname = 'pg_trgm'));
end $$;

-- Users of the transaction's tenant whose name or address contains needle in any case, at most at_most; of two characters,
-- those of whose name a word begins with it, or the address. Behind row-level security no index could be used, since "like"
-- might tell what it is given; so this sees past it, and asks whose transaction it is itself.
--
-- What is common is found soon in any part of a tenant, and what is rare by the index; either would take a second the other
-- way where there are a million users. The planner cannot know which it is: its statistics are of all tenants together. So
-- the newest users are looked at first, which often is all that is needed. Plans are made without the values, and without
-- what is slow in a large tenant: they are the same whatever is asked for.
create function search_users(tenant uuid, needle text, active boolean[], roles text[], verified boolean[],
  since timestamptz, until timestamptz, at_most int) returns setof users
language plpgsql stable security definer set search_path = tenantry, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_sort = off set jit = off as $$
declare
  is_short  constant boolean := length(needle) < 3;
  literally constant text := replace(replace(replace(lower(needle), '\', '\\'), '%', '\%'), '_', '\_');
  pattern   constant text := case when is_short then '% ' else '%' end || literally || '%';
  -- Whether there is a trigram in the pattern. Without one the whole index would be read, so of signs alone nobody is found
  -- but by looking.
  indexed   constant boolean := case when is_short then needle ~ '[[:alnum:]]'
    else needle ~ '[[:alnum:]]{3}|[[:alnum:]]{2}[^[:alnum:]]|[^[:alnum:]][[:alnum:]]' end;
  -- How many to look at, at first and at most.
  few       constant int := 1000;
  many      constant int := 50000;
  -- Whether most of the tenant's users are not asked for.
  filtered  constant boolean := cardinality(roles) = 1 or cardinality(verified) = 1 or active = '{f}'
    or since > '-infinity' or until < 'infinity';
  look      int := few;
  seen      int;
  found     uuid[];
  share     double precision;
  entries   double precision;
  there     int;
begin
  if tenant is distinct from tenantry.current_tenant() then
    return;
  end if;
  loop
    select count(*), coalesce(array_agg(l.id) filter (where tenantry.search_words(l.name, l.email) like pattern), '{}')
      into seen, found
      from (
        select p.id, p.name, p.email from unnest(roles) r cross join unnest(verified) v cross join unnest(active) a
          cross join lateral (
            select u.id, u.name, u.email from tenantry.users u
            where u.tenant_id = tenant and u.is_active = a and u.role = r and u.email_verified = v and u.deleted_at is null
              and u.created_at >= since and u.created_at < until
            order by u.created_at desc, u.id desc offset 0
          ) p
        limit look
      ) l;
    if seen < look or cardinality(found) >= at_most or look = many then
      return query select (p.person).* from unnest(found) f
        cross join lateral (select u as person from tenantry.users u where u.tenant_id = tenant and u.id = f offset 0) p
        limit at_most;
      return;
    end if;
    if not indexed then
      look := many;
      continue;
    end if;
    -- A second look that was not enough was at users who are unlike the others.
    exit when look > few or cardinality(found) = 0;
    -- Either as many are looked at as have at_most among them, or all there are if they are few; or what the index has is
    -- fetched, each entry in a third of that time, and in all of it where it mostly is somebody who is not asked for.
    share := cardinality(found)::double precision / seen;
    entries := share * coalesce((select s.used from tenantry.tenant_seats s where s.tenant_id = tenant), 0) / 3;
    look := least(1.5 * at_most / share, many - 1);
    if filtered then
      entries := 3 * entries;
      select count(*) into there
        from (
          select from unnest(roles) r cross join unnest(verified) v cross join unnest(active) a
            cross join lateral (
              select from tenantry.users u
              where u.tenant_id = tenant and u.is_active = a and u.role = r and u.email_verified = v and u.deleted_at is null
                and u.created_at >= since and u.created_at < until
              order by u.created_at desc, u.id desc offset 0
            ) p
          limit look
        ) l;
      look := least(look, there + 1);
    end if;
    exit when look > entries;
  end loop;
  return query select (p.person).* from tenantry.user_search s
    cross join lateral (
      select u as person from tenantry.users u
      where u.tenant_id = tenant and u.id = s.user_id and u.is_active = any (active) and u.role = any (roles)
        and u.email_verified = any (verified) and u.created_at >= since and u.created_at < until
      offset 0
    ) p
    where s.tenant_id::text = tenant::text and s.words like pattern
    limit at_most;
end $$;
revoke all on function search_users(uuid, text, boolean[], text[], boolean[], timestamptz, timestamptz, int) from public;
grant execute on function search_users(uuid, text, boolean[], text[], boolean[], timestamptz, timestamptz, int) to tenantry_app;
