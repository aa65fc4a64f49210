// Stripe's own library for Node against the fake: node sdk.mjs URL
//
// Whatever it does not understand, or is told otherwise than it was told to do, ends it with an error.

import assert from "node:assert/strict";
import http from "node:http";
import Stripe from "stripe";

const url = process.argv[2];
const { hostname: host, port } = new URL(url);
const connect = (key, more) =>
  new Stripe(key, { host, port, protocol: "http", maxNetworkRetries: 0, telemetry: false, ...more });
const stripe = connect("sk_test_node");
const control = async (path, body) => {
  const answer = await fetch(`${url}/_fake/${path}`, body && { method: "POST", body: JSON.stringify(body) });
  assert.equal(answer.status, 200);
  return answer.json();
};

// An endpoint that refuses each event once: it comes again.
const received = new Map();
const refused = new Set();
let endpoint;
const server = http.createServer((request, answer) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const body = Buffer.concat(chunks);
    const header = request.headers["stripe-signature"];
    const event = stripe.webhooks.constructEvent(body, header, endpoint.secret);
    assert.throws(() => stripe.webhooks.constructEvent(body, header, "whsec_other"), Stripe.errors.StripeSignatureVerificationError);
    const again = refused.has(event.id);
    refused.add(event.id);
    if (again) received.set(event.id, event);
    answer.writeHead(again ? 204 : 500).end();
  });
});
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
await control("faults", { webhooks: { retry_ms: [20, 20, 20] } });
endpoint = await stripe.webhookEndpoints.create({
  url: `http://127.0.0.1:${server.address().port}/hook`,
  enabled_events: ["*"],
});

// The catalogue, a customer, and a subscription from its beginning to its end.
const product = await stripe.products.create({ name: "Seats" });
const price = await stripe.prices.create({
  product: product.id, currency: "usd", unit_amount: 1200, recurring: { interval: "month" },
});
const dearer = await stripe.prices.create({
  product: product.id, currency: "usd", unit_amount: 2400, recurring: { interval: "month" },
});
const customer = await stripe.customers.create({
  email: "grace@example.org",
  payment_method: "pm_card_visa",
  invoice_settings: { default_payment_method: "pm_card_visa" },
});
const subscription = await stripe.subscriptions.create({
  customer: customer.id,
  items: [{ price: price.id, quantity: 2 }],
  expand: ["latest_invoice", "items.data.price.product"],
});
assert.equal(subscription.status, "active");
assert.equal(subscription.latest_invoice.amount_paid, 2400);
assert.equal(subscription.items.data[0].price.product.name, "Seats");
const item = subscription.items.data[0].id;
const upgraded = await stripe.subscriptions.update(subscription.id, {
  items: [{ id: item, price: dearer.id }], proration_behavior: "always_invoice",
});
assert.deepEqual([upgraded.items.data[0].price.id, upgraded.items.data[0].id], [dearer.id, item]);
const added = await stripe.subscriptionItems.create({ subscription: subscription.id, price: price.id, quantity: 9 });
assert.equal((await stripe.subscriptions.retrieve(subscription.id)).items.data.length, 2);
assert.equal((await stripe.subscriptionItems.del(added.id)).deleted, true);
assert.equal((await stripe.subscriptions.cancel(subscription.id)).status, "canceled");
await assert.rejects(stripe.subscriptions.cancel(subscription.id), { statusCode: 404, code: "resource_missing" });

// Pages.
const made = [];
for (let n = 0; n < 5; n++) made.unshift((await stripe.customers.create({ name: `page ${n}` })).id);
const listed = [];
for await (const one of stripe.customers.list({ limit: 2 })) listed.push(one.id);
assert.deepEqual(listed, [...made, customer.id]);

// Idempotency: the second answer is the first one's.
const once = (params) => stripe.customers.create(params, { idempotencyKey: "node-1" });
const both = [await once({ name: "once" }), await once({ name: "once" })];
assert.equal(both[0].id, both[1].id);
assert.equal(both[1].lastResponse.headers["idempotent-replayed"], "true");
await assert.rejects(once({ name: "other" }), Stripe.errors.StripeIdempotencyError);
// While the first is under way, the second is a conflict.
await control("faults", { api: { latency_ms: [300, 300] } });
const race = await Promise.allSettled([1, 2].map(() => stripe.customers.create({ name: "race" }, { idempotencyKey: "node-2" })));
assert.deepEqual(race.map((one) => one.status).sort(), ["fulfilled", "rejected"]);
assert.equal(race.find((one) => one.status === "rejected").reason.statusCode, 409);

// Errors by class.
const fault = (api) => control("faults", { api, webhooks: { retry_ms: [20, 20, 20] } });
const list = () => stripe.customers.list();
await fault({ rate_limited: 1 });
await assert.rejects(list(), Stripe.errors.StripeRateLimitError);
await fault({ failed: 1 });
await assert.rejects(list(), Stripe.errors.StripeAPIError);
await fault({ cut: 1 });
await assert.rejects(list(), Stripe.errors.StripeConnectionError);
await fault({});
await assert.rejects(stripe.customers.retrieve("cus_0"), Stripe.errors.StripeInvalidRequestError);
await assert.rejects(connect("nobody").customers.list(), Stripe.errors.StripeAuthenticationError);
await assert.rejects(stripe.customers.create({ payment_method: "pm_card_chargeDeclined" }), Stripe.errors.StripeCardError);

// Checkout and the portal, by their pages.
const session = await stripe.checkout.sessions.create({
  mode: "subscription",
  line_items: [{ price: price.id, quantity: 1 }],
  customer_email: "new@example.org",
  success_url: "https://example.org/done?s={CHECKOUT_SESSION_ID}",
});
const press = (page, fields) => fetch(page, { method: "POST", body: new URLSearchParams(fields), redirect: "manual" });
const page = await (await fetch(session.url)).text();
assert.match(page, /new@example\.org/);
assert.match(await (await press(session.url, { action: "decline" })).text(), /declined/);
assert.equal((await stripe.checkout.sessions.retrieve(session.id)).status, "open");
const paid = await press(session.url, { action: "pay" });
assert.deepEqual([paid.status, paid.headers.get("location")], [303, `https://example.org/done?s=${session.id}`]);
const complete = await stripe.checkout.sessions.retrieve(session.id, { expand: ["subscription"] });
assert.deepEqual([complete.payment_status, complete.subscription.status], ["paid", "active"]);
const portal = await stripe.billingPortal.sessions.create({ customer: complete.customer });
const act = (fields) => press(portal.url, { subscription: complete.subscription.id, ...fields });
await act({ action: "change", price: dearer.id, quantity: "7" });
let now = await stripe.subscriptions.retrieve(complete.subscription.id);
assert.deepEqual([now.items.data[0].quantity, now.items.data[0].price.id], [7, dearer.id]);
await act({ action: "cancel_at_period_end" });
now = await stripe.subscriptions.retrieve(now.id);
assert.equal(now.cancel_at_period_end, true);
await act({ action: "cancel" });
assert.equal((await stripe.subscriptions.retrieve(now.id)).status, "canceled");

// Every event came as a webhook, on its second attempt.
const events = [];
for await (const event of stripe.events.list({ limit: 100 })) events.push(event);
for (let n = 0; received.size < events.length && n < 400; n++) await new Promise((next) => setTimeout(next, 25));
const plain = (object) => JSON.parse(JSON.stringify(object));
for (const event of events) assert.deepEqual(plain(received.get(event.id)), plain(event));
assert.equal((await control("pending")).refused, events.length);
server.close();
console.log(`ok: stripe ${Stripe.PACKAGE_VERSION}, ${events.length} webhooks`);
process.exit();
