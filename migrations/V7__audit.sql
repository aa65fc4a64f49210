-- Who did it is more than users, and from where belongs to it.
alter table audit_events
  add column actor_kind text not null default 'user' check (actor_kind in ('user', 'super_admin', 'api_key', 'operator', 'system')),
  add column address cidr;
