-- Stripe, third part: what a closed tenant pays for ends, and taking an event in touches the fewest rows.

-- When Stripe first had a fault while it made the customer: what a fault leaves behind may be listed a little later.
alter table billing_customers add column failed_at timestamptz;

-- Each event and each fetch updates its row: room beside it keeps them out of the indexes.
alter table stripe_objects set (fillfactor = 50);

insert into job_kinds (kind, required, max_attempts) values ('end_subscriptions', '{}', 100);

-- As in V13. Of an event of one subscription, of which there are the most, nothing else is touched. A customer that was deleted
-- is noted as such, and a job waits that unlinks it when Stripe says so; what a deleted customer paid for stays the tenant's.
-- Locks: the customer, then objects by their ids, then jobs.
create or replace function receive_stripe_event(event text, event_kind text, happened timestamptz, subscription text, customer text, came_by text)
returns boolean language plpgsql as $$
declare
  owner uuid;
  object text;
begin
  perform set_config('role', 'tenantry_system', true);
  insert into tenantry.stripe_events (id, kind, created_at, source) values (event, event_kind, happened, came_by)
    on conflict (id) do nothing;
  if not found then return false; end if;
  if subscription is null and (event_kind <> 'customer.deleted' or customer is null) then return true; end if;
  select c.tenant_id into owner from tenantry.billing_customers c where c.customer_id = customer;
  if owner is null then
    select p.tenant_id into owner from tenantry.billing_past_customers p where p.customer_id = customer;
  end if;
  if subscription is not null then
    insert into tenantry.stripe_objects as o (id, customer_id, dirty, newest_event) values (subscription, customer, 1, happened)
      on conflict (id) do update set dirty = o.dirty + 1, newest_event = greatest(o.newest_event, excluded.newest_event),
        customer_id = coalesce(excluded.customer_id, o.customer_id);
    perform tenantry.enqueue_job('sync_subscription', jsonb_build_object('subscription_id', subscription, 'if_dirty', true),
      coalesce(owner, '00000000-0000-0000-0000-000000000000'), unique_key => subscription);
    return true;
  end if;
  insert into tenantry.stripe_customers as s (id, deleted_at) values (customer, happened)
    on conflict (id) do update set deleted_at = coalesce(s.deleted_at, excluded.deleted_at);
  for object in select o.id from tenantry.stripe_objects o where o.customer_id = customer order by o.id for update loop
    update tenantry.stripe_objects o set dirty = o.dirty + 1, newest_event = greatest(o.newest_event, happened) where o.id = object;
    perform tenantry.enqueue_job('sync_subscription', jsonb_build_object('subscription_id', object, 'if_dirty', true),
      coalesce(owner, '00000000-0000-0000-0000-000000000000'), unique_key => object);
  end loop;
  if exists (select from tenantry.billing_customers c where c.customer_id = customer) then
    perform tenantry.enqueue_job('sync_customer', jsonb_build_object('customer_id', customer), owner, unique_key => customer);
  end if;
  return true;
end $$;
