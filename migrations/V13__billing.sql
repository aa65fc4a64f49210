-- Billing: what Stripe says, and what follows from it. Stripe is the truth; these rows are what was last fetched.

-- Who pays in Stripe for whom. The only way from a customer to a tenant: metadata can be written by anybody with a key. The
-- row is made before the customer is; by its key the customer is found again, and with the attempt it makes Stripe give the
-- same answer however often it is asked.
create table billing_customers (
  tenant_id   uuid primary key references tenants (id) on delete cascade,
  key         uuid not null default gen_random_uuid(),
  attempt     int not null default 0,
  customer_id text check (length(customer_id) between 1 and 255),
  created_at  timestamptz not null default now(),
  constraint billing_customers_customer_key unique (customer_id)
);
call wall('billing_customers');
grant select, insert, update on billing_customers to tenantry_app, tenantry_system;

-- Every event that was taken in, once. Not the payload: what became of its object is fetched.
create table stripe_events (
  id          text primary key check (length(id) between 1 and 255),
  kind        text not null,
  created_at  timestamptz not null,
  received_at timestamptz not null default now(),
  source      text not null check (source in ('webhook', 'reconcile'))
);
create index stripe_events_received on stripe_events (received_at);
grant select, insert, delete on stripe_events to tenantry_system;

-- What is known of each subscription as an object of Stripe's, whoever's it is. dirty goes up with each event; synced is
-- what dirty was when the fetch began that was applied last. applied is the number of that fetch.
create table stripe_objects (
  id           text primary key check (length(id) between 1 and 255),
  customer_id  text,
  dirty        bigint not null default 0,
  synced       bigint not null default 0,
  applied      bigint not null default 0,
  newest_event timestamptz,
  parked_at    timestamptz
);
create index stripe_objects_parked on stripe_objects (customer_id) where parked_at is not null;
create index stripe_objects_customer on stripe_objects (customer_id);
grant select, insert, update on stripe_objects to tenantry_system;

-- Fetches are numbered before they begin: of two, the one that began later is applied, or both in this order.
create sequence stripe_fetches;
grant usage on sequence stripe_fetches to tenantry_system;

-- How far long walks have come. number is that of a fetch before the first: what a walk through all did not come by has
-- been fetched before it.
create table stripe_cursors (
  name       text primary key,
  number     bigint not null default nextval('stripe_fetches'),
  position   text,
  done       bigint not null default 0,
  started_at timestamptz not null default now(),
  moved_at   timestamptz not null default now(),
  ended_at   timestamptz
);
grant select, insert, update, delete on stripe_cursors to tenantry_system;

create table subscriptions (
  tenant_id            uuid not null references tenants (id) on delete cascade,
  id                   uuid not null,
  stripe_id            text not null,
  customer_id          text not null,
  status               text not null check (status in ('incomplete', 'incomplete_expired', 'trialing', 'active', 'past_due', 'canceled', 'unpaid', 'paused', 'unknown')),
  created_at           timestamptz not null,
  trial_end            timestamptz,
  cancel_at            timestamptz,
  cancel_at_period_end boolean not null,
  canceled_at          timestamptz,
  ended_at             timestamptz,
  payment_paused       boolean not null,
  resumes_at           timestamptz,
  schedule_id          text,
  past_due_since       timestamptz,
  raw                  jsonb not null,
  updated_at           timestamptz not null default now(),
  version              bigint not null default 1,
  primary key (tenant_id, id),
  constraint subscriptions_stripe_key unique (tenant_id, stripe_id)
);
call wall('subscriptions');
grant select, insert, update on subscriptions to tenantry_app, tenantry_system;

create table subscription_items (
  tenant_id       uuid not null,
  subscription_id uuid not null,
  stripe_id       text not null,
  price_id        text not null,
  product_id      text,
  quantity        bigint,
  period_start    timestamptz,
  period_end      timestamptz,
  primary key (tenant_id, subscription_id, stripe_id),
  foreign key (tenant_id, subscription_id) references subscriptions (tenant_id, id) on delete cascade
);
call wall('subscription_items');
grant select, insert, update, delete on subscription_items to tenantry_app, tenantry_system;

-- What the tenant may have by its subscriptions. No plan: none of them gives one.
create table entitlements (
  tenant_id    uuid primary key references tenants (id) on delete cascade,
  plan         text check (plan in ('basic', 'pro', 'enterprise')),
  active_until timestamptz,
  grace_until  timestamptz,
  updated_at   timestamptz not null default now()
);
call wall('entitlements');
grant select, insert, update on entitlements to tenantry_app, tenantry_system;

insert into job_kinds (kind, required, max_attempts) values
  ('sync_subscription', '{"subscription_id": "string"}', 100),
  ('create_customer',   '{}', 100),
  ('sync_seats',        '{}', 100),
  ('stripe_reconcile',  '{}', 10),
  ('stripe_backfill',   '{}', 10);

insert into schedules (kind, every) values ('stripe_reconcile', '15 min');

-- Takes an event in: the event itself, once; that its subscription is dirty; one job that waits. Of a customer, all that
-- is theirs. False when the event was known.
create function receive_stripe_event(event text, event_kind text, happened timestamptz, subscription text, customer text, came_by text)
returns boolean language plpgsql as $$
declare
  owner uuid;
  object text;
begin
  perform set_config('role', 'tenantry_system', true);
  insert into tenantry.stripe_events (id, kind, created_at, source) values (event, event_kind, happened, came_by)
    on conflict (id) do nothing;
  if not found then return false; end if;
  if subscription is not null then
    insert into tenantry.stripe_objects as o (id, customer_id, dirty, newest_event) values (subscription, customer, 1, happened)
      on conflict (id) do update set dirty = o.dirty + 1, newest_event = greatest(o.newest_event, excluded.newest_event),
        customer_id = coalesce(excluded.customer_id, o.customer_id);
  elsif event_kind = 'customer.deleted' then
    update tenantry.stripe_objects o set dirty = o.dirty + 1, newest_event = greatest(o.newest_event, happened)
      where o.customer_id = customer;
  else
    return true;
  end if;
  select c.tenant_id into owner from tenantry.billing_customers c where c.customer_id = customer;
  for object in select o.id from tenantry.stripe_objects o
    where case when subscription is null then o.customer_id = customer else o.id = subscription end
  loop
    perform tenantry.enqueue_job('sync_subscription', jsonb_build_object('subscription_id', object, 'if_dirty', true),
      coalesce(owner, '00000000-0000-0000-0000-000000000000'), unique_key => object);
  end loop;
  return true;
end $$;

-- The number of a fetch that is about to begin, and what is known of the object before it.
create function begin_stripe_fetch(object text) returns table (number bigint, dirty bigint, synced bigint, newest_event timestamptz, parked boolean, tenant_id uuid)
language plpgsql as $$ begin
  perform set_config('role', 'tenantry_system', true);
  return query select nextval('tenantry.stripe_fetches'), coalesce(o.dirty, 0), coalesce(o.synced, 0), o.newest_event, o.parked_at is not null, c.tenant_id
    from (select) always left join tenantry.stripe_objects o on o.id = object
      left join tenantry.billing_customers c on c.customer_id = o.customer_id;
end $$;
