"""Stripe's own library for Python against the fake: python sdk.py URL

Whatever it does not understand, or is told otherwise than it was told to do, ends it with an error.
"""

import json
import queue
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import stripe

url = sys.argv[1]
client = stripe.StripeClient("sk_test_python", base_addresses={"api": url}, max_network_retries=0)
v1 = client.v1


def control(path: str, body: dict | None = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"{url}/_fake/{path}", data) as answer:
        return json.load(answer)


def refused(kind: type, call, **wanted) -> stripe.StripeError:
    """The call fails with exactly this class of error, and these attributes."""
    try:
        call()
    except stripe.StripeError as error:
        assert type(error) is kind, f"{type(error)}: {error}"
        for name, value in wanted.items():
            assert getattr(error, name) == value, (name, getattr(error, name), value)
        assert error.request_id, "no Request-Id"
        return error
    raise AssertionError(f"{kind.__name__} expected")


received: queue.Queue = queue.Queue()


class Endpoint(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        received.put((body, self.headers["Stripe-Signature"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
threading.Thread(target=server.serve_forever, daemon=True).start()
endpoint = v1.webhook_endpoints.create(
    {"url": f"http://127.0.0.1:{server.server_port}/hook", "enabled_events": ["*"]}
)
assert endpoint.secret.startswith("whsec_")
assert "secret" not in v1.webhook_endpoints.retrieve(endpoint.id).to_dict()

# The catalogue and a customer who pays.
product = v1.products.create({"name": "Seats", "metadata": {"plan": "team"}})
monthly = v1.prices.create(
    {"product": product.id, "currency": "eur", "unit_amount": 900, "recurring": {"interval": "month"}}
)
yearly = v1.prices.create(
    {
        "product_data": {"name": "Storage"},
        "currency": "eur",
        "unit_amount": 5000,
        "recurring": {"interval": "year"},
        "lookup_key": "storage",
    }
)
assert [price.id for price in v1.prices.list({"lookup_keys": ["storage"]}).data] == [yearly.id]
assert v1.products.update(product.id, {"name": "Team seats"}).name == "Team seats"
customer = v1.customers.create(
    {
        "email": "ada+plus@example.org",
        "name": "Ada & Söhne",
        "metadata": {"tenant": "t1"},
        "payment_method": "pm_card_visa",
        "invoice_settings": {"default_payment_method": "pm_card_visa"},
    }
)
assert (customer.name, customer.metadata["tenant"]) == ("Ada & Söhne", "t1")
found = v1.customers.list({"email": "ada+plus@example.org"})
assert [one.id for one in found.data] == [customer.id]

# A subscription from its beginning to its end.
subscription = v1.subscriptions.create(
    {"customer": customer.id, "items": [{"price": monthly.id, "quantity": 3}], "expand": ["latest_invoice", "customer"]}
)
assert subscription.status == "active" and subscription.customer.email == customer.email
assert (subscription.latest_invoice.status, subscription.latest_invoice.amount_paid) == ("paid", 2700)
item = subscription["items"].data[0]
assert item.current_period_end - item.current_period_start >= 28 * 86400
changed = v1.subscriptions.update(
    subscription.id, {"items": [{"id": item.id, "quantity": 5}], "metadata": {"a": "b"}, "proration_behavior": "none"}
)
assert changed["items"].data[0].quantity == 5 and changed.metadata["a"] == "b"
assert v1.subscriptions.update(subscription.id, {"cancel_at_period_end": True}).cancel_at == item.current_period_end
kept = v1.subscriptions.update(subscription.id, {"cancel_at_period_end": False, "metadata": {"a": ""}})
assert kept.cancel_at is None and kept.metadata.to_dict() == {}
paused = v1.subscriptions.update(subscription.id, {"pause_collection": {"behavior": "void"}})
assert paused.pause_collection.behavior == "void"
assert v1.subscriptions.update(subscription.id, {"pause_collection": ""}).pause_collection is None
canceled = v1.subscriptions.cancel(subscription.id, {"cancellation_details": {"feedback": "unused"}})
assert (canceled.status, canceled.cancellation_details.feedback) == ("canceled", "unused")
assert v1.subscriptions.list({"customer": customer.id}).data == []
assert len(v1.subscriptions.list({"customer": customer.id, "status": "all"}).data) == 1

# Pages of a list, both ways.
made = [v1.customers.create({"email": f"page-{n}@example.org"}).id for n in range(7)]
listed = [one.id for one in v1.customers.list({"limit": 3}).auto_paging_iter()]
assert listed == made[::-1] + [customer.id]
before = v1.customers.list({"limit": 3, "ending_before": made[0]})
assert [one.id for one in before.data] == made[3:0:-1] and before.has_more
backwards = [one.id for one in before.auto_paging_iter()]
assert backwards == made[1:]

# Idempotency.
once = {"email": "once@example.org"}
first = v1.customers.create(once, {"idempotency_key": "key-1"})
again = v1.customers.create(once, {"idempotency_key": "key-1"})
assert first.id == again.id and again.last_response.headers["Idempotent-Replayed"] == "true"
refused(
    stripe.IdempotencyError,
    lambda: v1.customers.create({"email": "other@example.org"}, {"idempotency_key": "key-1"}),
    http_status=400,
)

# Errors.
refused(stripe.InvalidRequestError, lambda: v1.customers.retrieve("cus_0"), http_status=404, code="resource_missing", param="id")
refused(
    stripe.InvalidRequestError,
    lambda: v1.subscriptions.create({"customer": "cus_0", "items": [{"price": monthly.id}]}),
    http_status=400, code="resource_missing", param="customer",
)
refused(stripe.InvalidRequestError, lambda: v1.products.create({}), http_status=400, code="parameter_missing", param="name")
refused(stripe.InvalidRequestError, lambda: v1.customers.create({"emial": "x"}), code="parameter_unknown", param="emial")
refused(stripe.CardError, lambda: v1.customers.create({"payment_method": "pm_card_chargeDeclined"}), http_status=402, code="card_declined")
stranger = stripe.StripeClient("nobody", base_addresses={"api": url}, max_network_retries=0)
refused(stripe.AuthenticationError, lambda: stranger.v1.customers.list(), http_status=401)
control("faults", {"api": {"rate_limited": 1}})
limited = refused(stripe.RateLimitError, lambda: v1.customers.list(), http_status=429)
assert limited.json_body["error"]["code"] == "rate_limit"
control("faults", {"api": {"failed": 1}})
refused(stripe.APIError, lambda: v1.customers.list(), http_status=500)
control("faults", {"api": {"cut": 1}})
try:
    v1.customers.list()
    raise AssertionError("the connection is cut")
except stripe.APIConnectionError:
    pass
control("faults", {})
# The library's own retries get through what goes wrong now and then, and make nothing twice.
control("faults", {"seed": 7, "api": {"failed": 0.3, "cut": 0.1, "cut_after": 0.2}})
patient = stripe.StripeClient("sk_test_python", base_addresses={"api": url}, max_network_retries=20)
stripe.max_network_retry_delay = 0.05
stripe._http_client.HTTPClient.INITIAL_DELAY = 0.01
stripe._http_client.HTTPClient.MAX_DELAY = 0.02
for n in range(10):
    patient.v1.customers.create({"email": "patient@example.org", "name": str(n)})
control("faults", {})
names = [one.name for one in v1.customers.list({"email": "patient@example.org", "limit": 100}).data]
assert names == [str(n) for n in range(9, -1, -1)], names

# Checkout and the portal.
session = v1.checkout.sessions.create(
    {
        "mode": "subscription",
        "customer": customer.id,
        "line_items": [{"price": monthly.id, "quantity": 2}],
        "success_url": f"{url}/done?session={{CHECKOUT_SESSION_ID}}",
        "client_reference_id": "t1",
        "metadata": {"a": "b"},
        "subscription_data": {"metadata": {"tenant": "t1"}, "trial_period_days": 14},
    }
)
assert session.status == "open" and session.url.startswith(url)
try:
    urllib.request.urlopen(session.url, b"action=pay")
except urllib.error.HTTPError as error:
    # Where it leads there is nothing.
    assert error.url == f"{url}/done?session={session.id}", error.url
done = v1.checkout.sessions.retrieve(session.id, {"expand": ["subscription", "line_items"]})
assert (done.status, done.payment_status, done.line_items.data[0].quantity) == ("complete", "no_payment_required", 2)
assert (done.subscription.status, done.subscription.metadata["tenant"]) == ("trialing", "t1")
portal = v1.billing_portal.sessions.create({"customer": customer.id, "return_url": f"{url}/back"})
assert portal.url.startswith(url)

# A schedule, and a test clock that makes a year pass.
now = int(time.time())
clock = v1.test_helpers.test_clocks.create({"frozen_time": now})
traveller = v1.customers.create(
    {"test_clock": clock.id, "invoice_settings": {"default_payment_method": "pm_card_visa"}, "payment_method": "pm_card_visa"}
)
travelling = v1.subscriptions.create({"customer": traveller.id, "items": [{"price": monthly.id}]})
schedule = v1.subscription_schedules.create({"from_subscription": travelling.id})
phase = schedule.phases[0]
v1.subscription_schedules.update(
    schedule.id,
    {
        "phases": [
            {"items": [{"price": monthly.id, "quantity": 1}], "start_date": phase.start_date, "end_date": phase.end_date},
            {"items": [{"price": yearly.id, "quantity": 1}], "duration": {"interval": "year"}},
        ]
    },
)
assert v1.test_helpers.test_clocks.advance(clock.id, {"frozen_time": now + 40 * 86400}).status == "advancing"
assert v1.test_helpers.test_clocks.retrieve(clock.id).status == "ready"
later = v1.subscriptions.retrieve(travelling.id)
assert [one.price.id for one in later["items"].data] == [yearly.id]
assert v1.subscription_schedules.release(schedule.id).status == "released"
assert v1.subscriptions.retrieve(travelling.id).schedule is None

# Events by the API, and the same ones as webhooks with signatures that hold.
v1.customers.delete(made[0])
by_api = {event.id: event for event in v1.events.list({"limit": 100}).auto_paging_iter()}
assert v1.events.retrieve(next(iter(by_api))).id in by_api
types = {event.type for event in by_api.values()}
assert {
    "customer.created", "customer.deleted", "customer.subscription.created", "customer.subscription.updated",
    "customer.subscription.deleted", "checkout.session.completed", "invoice.created", "invoice.paid",
    "product.created", "price.created",
} <= types, types
only = v1.events.list({"types": ["customer.deleted"], "created": {"gte": now - 60}})
assert [event.data.object.id for event in only.data] == [made[0]]
update = next(e for e in by_api.values() if e.type == "product.updated")
assert update.data.previous_attributes["name"] == "Seats" and update.data.object.name == "Team seats"
by_webhook = {}
while len(by_webhook) < len(by_api):
    body, signature = received.get(timeout=20)
    event = stripe.Webhook.construct_event(body, signature, endpoint.secret)
    by_webhook[event.id] = event
    for wrong in [(body, signature, "whsec_other"), (body + b" ", signature, endpoint.secret)]:
        try:
            stripe.Webhook.construct_event(*wrong)
            raise AssertionError("a signature that does not fit was taken")
        except stripe.SignatureVerificationError:
            pass
assert {id: event.to_dict() for id, event in by_webhook.items()} == {id: e.to_dict() for id, e in by_api.items()}
v1.webhook_endpoints.delete(endpoint.id)
print(f"ok: stripe {stripe.VERSION}, {len(by_webhook)} webhooks")
