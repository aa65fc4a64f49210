-- Walks through Stripe that take in customers as well, know how far they are, and go on where they stopped.

-- Stripe tells no totals, and lists the newest first: how far a walk is, is told by when things were made. newest is that
-- of what it began with, reached of what it came by last, oldest about that of what it will come by in the end; expected is
-- how many there will be, where that is known instead. lately_gone and lately_took are how far it went of late and how long
-- that took, older steps counting less. Events are asked for since a time.
alter table stripe_cursors
  add column newest      timestamptz,
  add column reached     timestamptz,
  add column oldest      timestamptz,
  add column since       timestamptz,
  add column expected    bigint,
  add column changed     bigint not null default 0,
  add column lately_gone double precision not null default 0,
  add column lately_took double precision not null default 0;

-- The walk through events was noted when it had come to its end, with the second in which it had begun.
update stripe_cursors set started_at = to_timestamp(position::bigint), ended_at = moved_at, position = null
  where name = 'events' and position ~ '^[0-9]{1,12}$';
-- A backfill that was stopped had not looked at customers.
insert into stripe_cursors (name) select unnest(array['customers', 'unlisted'])
  where exists (select from stripe_cursors where name = 'backfill' and ended_at is null);

-- What is known of each customer as an object of Stripe's, whoever it pays for; nothing about the person. seen is the number
-- of the fetch that came by it last, 0: none did. What Stripe has deleted stays so, and is linked to nobody any more. What
-- it does not know by our key may be another account's. The row is also the lock of all who link, park or unlink.
create table stripe_customers (
  id         text primary key check (length(id) between 1 and 255),
  seen       bigint not null default 0,
  missing_at timestamptz,
  deleted_at timestamptz
);
insert into stripe_customers (id, seen)
  select distinct customer_id, 1 from stripe_objects where parked_at is not null and customer_id is not null;
grant select, insert, update, delete on stripe_customers to tenantry_system;

-- Who paid for a tenant until Stripe deleted them: what they paid for stays the tenant's.
create table billing_past_customers (
  tenant_id   uuid not null references tenants (id) on delete cascade,
  customer_id text not null,
  ended_at    timestamptz not null default now(),
  primary key (tenant_id, customer_id),
  constraint billing_past_customers_customer_key unique (customer_id)
);
call wall('billing_past_customers');
grant select on billing_past_customers to tenantry_app;
grant select, insert on billing_past_customers to tenantry_system;

-- By their marks customers are found that were made and not linked.
create index billing_customers_unlinked on billing_customers (key) where customer_id is null;

insert into job_kinds (kind, required, max_attempts) values ('sync_customer', '{"customer_id": "string"}', 100);

-- As in V13; what a deleted customer paid for stays the tenant's.
create or replace function begin_stripe_fetch(object text) returns table (number bigint, dirty bigint, synced bigint, newest_event timestamptz, parked boolean, tenant_id uuid)
language plpgsql as $$ begin
  perform set_config('role', 'tenantry_system', true);
  return query select nextval('tenantry.stripe_fetches'), coalesce(o.dirty, 0), coalesce(o.synced, 0), o.newest_event, o.parked_at is not null,
      coalesce(c.tenant_id, p.tenant_id)
    from (select) always left join tenantry.stripe_objects o on o.id = object
      left join tenantry.billing_customers c on c.customer_id = o.customer_id
      left join tenantry.billing_past_customers p on p.customer_id = o.customer_id;
end $$;
