-- What is proven by mail: an address, that one may choose a new password, that one was invited.

-- An address that somebody wants to have. It counts when it is proven; until then the old one does.
alter table users add column pending_email text check (length(pending_email) between 3 and 254);

alter table email_tokens drop constraint email_tokens_purpose_check,
  add constraint email_tokens_purpose_check check (purpose in ('verify_email', 'change_email', 'reset_password'));

-- Addresses that were given up or are about to be: those who read mail there are told.
create table address_notices (
  tenant_id  uuid not null,
  id         uuid not null,
  user_id    uuid not null,
  email      text not null,
  created_at timestamptz not null default now(),
  primary key (tenant_id, id),
  foreign key (tenant_id, user_id) references users (tenant_id, id) on delete cascade
);
call wall('address_notices');
grant select, insert, delete on address_notices to tenantry_app, tenantry_system;

-- Seats are reserved for those who were invited. Whoever invited may be a super administrator, of another tenant, and may be
-- purged: the invitation and its seat stay.
create table invitations (
  tenant_id   uuid not null references tenants (id) on delete cascade,
  id          uuid not null,
  email       text not null check (length(email) between 3 and 254),
  role        text not null check (role in ('user', 'admin')),
  invited_by  uuid not null,
  hash        bytea check (length(hash) = 32),
  job_id      uuid,
  created_at  timestamptz not null default now(),
  expires_at  timestamptz not null,
  accepted_at timestamptz,
  ended_at    timestamptz,
  primary key (tenant_id, id)
);
create unique index invitations_open on invitations (tenant_id, email) where accepted_at is null and ended_at is null;
create unique index invitations_hash on invitations (tenant_id, hash) where hash is not null;
call wall('invitations');
grant select, insert, update, delete on invitations to tenantry_app, tenantry_system;

insert into job_kinds (kind, required, max_attempts) values
  ('reset_password_email', '{"user_id": "uuid"}', 25),
  ('invitation_email',     '{"invitation_id": "uuid"}', 25),
  ('address_notice_email', '{"notice_id": "uuid"}', 25);

-- Asks for a mail to whoever has this address in the tenant (id or slug). Known or not, the same is done: a job is
-- enqueued, for nobody where there is nobody, and one that waits already takes the place of another.
create function request_mail(wanted_kind text, tenant text, address text) returns void language plpgsql as $$
declare
  in_tenant uuid;
  found_user uuid;
begin
  perform set_config('role', 'tenantry_system', true);
  select t.id into in_tenant from tenantry.tenants t where t.id = tenantry.tenant_id_of(tenant) and t.is_active;
  select u.id into found_user from tenantry.users u
    where u.tenant_id = in_tenant and u.email = address and u.is_active and u.deleted_at is null;
  perform tenantry.enqueue_job(
    kind => wanted_kind,
    payload => jsonb_build_object('user_id', coalesce(found_user, md5(address)::uuid)),
    tenant_id => coalesce(in_tenant, '00000000-0000-0000-0000-000000000000'),
    unique_key => md5(tenant || ' ' || address));
end $$;

