"""Starts the service on the servers around it, and lets schemathesis call every operation as everybody in turn."""

import argparse
import concurrent.futures
import contextlib
import json
import os
import pathlib
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROLES = ["admin", "super_admin", "user", "api_key", "nobody"]


def main():
    options = arguments()
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings, url = start(stack, folder, options)
        if options.serve:
            print(json.dumps({"TENANTRY_URL": url + "/api/v1", **settings}), flush=True)
            threading.Event().wait()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="target/debug", help="the folder of the programs")
    parser.add_argument("--serve", action="store_true", help="start the service and nothing else")
    return parser.parse_args()


def start(stack, folder, options):
    programs = pathlib.Path(options.target).resolve()
    stripe, api = free_address(), free_address()
    secret = "whsec_schemathesis"
    fake = [programs / "fake-stripe", "--listen", stripe, "--secret", secret]
    fake += ["--webhook-url", f"http://{api}/api/v1/webhooks/stripe"]
    settings = {
        "TENANTRY": str(programs / "tenantry"),
        "DATABASE_URL": os.environ["TEST_DATABASE_URL"],
        "REDIS_URL": os.environ["TEST_REDIS_URL"],
        "LISTEN": api,
        "PUBLIC_URL": f"http://{api}",
        "JWT_KEYS_DIR": str(folder / "keys"),
        "SMTP_URL": stack.enter_context(mail_server()),
        "STRIPE_SECRET_KEY": "sk_test_schemathesis",
        "STRIPE_WEBHOOK_SECRETS": secret,
        "STRIPE_API_BASE": f"http://{stripe}",
        "STRIPE_RATE_LIMIT": "1000",
        # High, not off: what is told of limits is told.
        "RATE_LIMIT_IP": "10000000/1m",
        "RATE_LIMIT_LOGIN": "10000000/1m",
        "RUST_LOG": "warn",
    }
    log = (folder / "log").open("w+")
    run(stack, fake, {}, log)
    settings["STRIPE_PRICES"] = price(stripe)
    run(stack, [settings["TENANTRY"], "all"], settings, log)
    wait_for(f"http://{api}/health/ready")
    return settings, f"http://{api}"


def run(stack, command, settings, log):
    process = subprocess.Popen(command, env={**os.environ, **settings}, cwd="/", stderr=log, stdout=log)
    stack.callback(process.wait)
    stack.callback(process.terminate)


def price(stripe):
    """A price for each plan, as STRIPE_PRICES."""
    wait_for(f"http://{stripe}/_fake/state")
    prices = []
    for plan in ("basic", "pro", "enterprise"):
        form = f"currency=eur&unit_amount=900&recurring[interval]=month&product_data[name]={plan}"
        request = urllib.request.Request(f"http://{stripe}/v1/prices", data=form.encode())
        request.add_header("Authorization", "Bearer sk_test_schemathesis")
        prices.append(json.load(urllib.request.urlopen(request))["id"] + "=" + plan)
    return ",".join(prices)


def wait_for(url):
    deadline = time.monotonic() + 30
    while True:
        try:
            return urllib.request.urlopen(url, timeout=5).read()
        except (urllib.error.URLError, ConnectionError) as error:
            if time.monotonic() > deadline:
                sys.exit(f"{url} does not answer: {error}")
            time.sleep(0.05)


def free_address():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return "127.0.0.1:%d" % listener.getsockname()[1]


@contextlib.contextmanager
def mail_server():
    """One that takes everything and keeps nothing: mails that fail would be tried again and again."""

    class Taking(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"220 taking\r\n")
            mail = False
            for line in self.rfile:
                command = line.strip()
                if mail and command != b".":
                    continue
                mail = command == b"DATA"
                self.wfile.write(b"354 go on\r\n" if mail else b"250 taking\r\n")
                if command == b"QUIT":
                    return

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Taking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield "smtp://127.0.0.1:%d" % server.server_address[1]
        server.shutdown()


if __name__ == "__main__":
    main()
