"""Somebody else's fake, driven from outside: python localstripe.py [EVENTS]

Starts `localstripe` on a free port, makes customers with subscriptions to plans, cancels one, and takes the webhooks that it
sends. Their signatures are held against Stripe's own library. With EVENTS, the events as they came are written to that
file, one JSON object with `payload` and `signature` a line, to be sent on to whoever takes webhooks.
"""

import json
import queue
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import stripe

SECRET = "whsec_localstripe"
received: queue.Queue = queue.Queue()


class Endpoint(BaseHTTPRequestHandler):
    def do_POST(self):
        received.put((self.rfile.read(int(self.headers["Content-Length"])), self.headers["Stripe-Signature"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Driven:
    """A `localstripe` that runs, and what one asks of it."""

    def __init__(self) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "localstripe", "--port", str(port), "--from-scratch"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                assert self.process.poll() is None, "localstripe has ended"
                assert time.monotonic() < until, "localstripe does not listen"
                time.sleep(0.05)

    def ask(self, path: str, form: dict | None = None, method: str | None = None) -> dict:
        body = None if form is None else urllib.parse.urlencode(form).encode()
        request = urllib.request.Request(self.url + path, body, method=method)
        request.add_header("Authorization", "Bearer sk_test_12345")
        with urllib.request.urlopen(request) as answer:
            return json.load(answer) if answer.headers.get_content_type() == "application/json" else {}

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def drive(driven: Driven) -> set[str]:
    """Two customers subscribe to a plan, one of them leaves; the ids of the subscriptions."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    driven.ask("/_config/webhooks/ours", {"url": f"http://127.0.0.1:{server.server_port}/hook", "secret": SECRET})
    plan = driven.ask(
        "/v1/plans",
        {"id": "team", "amount": 900, "currency": "eur", "interval": "month", "product[name]": "Seats"},
    )
    subscriptions = []
    for name in ("ada", "grace"):
        customer = driven.ask("/v1/customers", {"email": f"{name}@example.org"})
        method = driven.ask(
            "/v1/payment_methods",
            {"type": "card", "card[number]": "4242424242424242", "card[exp_month]": 12, "card[exp_year]": 2040, "card[cvc]": 123},
        )
        driven.ask(f"/v1/payment_methods/{method['id']}/attach", {"customer": customer["id"]})
        driven.ask(
            f"/v1/customers/{customer['id']}", {"invoice_settings[default_payment_method]": method["id"]}
        )
        subscription = driven.ask(
            "/v1/subscriptions", {"customer": customer["id"], "items[0][plan]": plan["id"], "items[0][quantity]": 3}
        )
        assert subscription["status"] == "active", subscription
        subscriptions.append(subscription["id"])
    ended = driven.ask(f"/v1/subscriptions/{subscriptions[0]}", method="DELETE")
    assert ended["status"] == "canceled", ended
    return set(subscriptions)


def main() -> None:
    driven = Driven()
    try:
        subscriptions = drive(driven)
        taken, created, deleted = [], set(), set()
        while created != subscriptions or not deleted:
            body, signature = received.get(timeout=20)
            event = stripe.Webhook.construct_event(body, signature, SECRET)
            try:
                stripe.Webhook.construct_event(body, signature, "whsec_other")
                raise AssertionError("a signature that does not fit was taken")
            except stripe.SignatureVerificationError:
                pass
            taken.append({"payload": body.decode(), "signature": signature})
            if event.type == "customer.subscription.created":
                created.add(event.data.object.id)
            if event.type == "customer.subscription.deleted":
                deleted.add(event.data.object.id)
        assert deleted < subscriptions
    finally:
        driven.stop()
    if sys.argv[1:] and sys.argv[1]:
        with open(sys.argv[1], "w") as file:
            file.writelines(json.dumps(one) + "\n" for one in taken)
    print(f"ok: localstripe sent {len(taken)} events")


if __name__ == "__main__":
    main()
