-- Renewing and ending sessions.

-- A refresh token is used once. Its successor is made of the token itself and of salt, which is drawn when it is used
-- and kept for as long as a second tab may come with the same token: it gets the same successor. Neither the row nor an
-- old token alone tells the next one.
alter table refresh_tokens add column salt bytea check (length(salt) = 32);

alter table sessions add column renewed_at timestamptz;

-- What the purge removes: sessions that have ended, with their tokens.
create index sessions_expires on sessions (expires_at);

-- Facts about the whole service, by name.
create table facts (
  name  text primary key,
  value double precision not null
);
grant select on facts to tenantry_app, tenantry_system;
grant insert, update on facts to tenantry_system;

-- Notes the lifetime of access tokens that this process issues, in seconds, and returns the longest there ever was:
-- for that long every row of the feed is kept and read again by each node that starts.
create function note_token_lifetime(seconds double precision) returns double precision language plpgsql as $$
declare longest double precision;
begin
  perform set_config('role', 'tenantry_system', true);
  insert into tenantry.facts as f (name, value) values ('longest_token_lifetime', seconds)
    on conflict (name) do update set value = greatest(f.value, excluded.value)
    where f.value < excluded.value;
  select f.value into longest from tenantry.facts f where f.name = 'longest_token_lifetime';
  return longest;
end $$;

-- As in V3, and what says that tokens are void goes once no token can be as old.
create or replace function prune_revocations(older_than double precision, at_most int) returns bigint language plpgsql as $$
declare
  pruned   bigint;
  lifetime double precision;
begin
  perform set_config('role', 'tenantry_system', true);
  select f.value into lifetime from tenantry.facts f where f.name = 'longest_token_lifetime';
  delete from tenantry.revocations r using (
    select o.tenant_id, o.id from tenantry.revocations o
    where o.created_at < clock_timestamp() - make_interval(secs => older_than)
      and (o.subject = 'cached_user' or o.created_at < clock_timestamp() - make_interval(secs => lifetime + 3600))
    order by o.created_at limit at_most
  ) old
  where r.tenant_id = old.tenant_id and r.id = old.id;
  get diagnostics pruned = row_count;
  return pruned;
end $$;
