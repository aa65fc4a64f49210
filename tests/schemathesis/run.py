"""Starts the service on the servers around it, and lets schemathesis call every operation as everybody in turn."""

import argparse
import concurrent.futures
import contextlib
import email
import email.policy
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

from household import DOCUMENT

HERE = pathlib.Path(__file__).resolve().parent
CONFIG = "schemathesis.toml"
# Phases, and the share of the time of each. The examples are few, and take what they take: in them each operation succeeds.
PHASES = (("examples", None), ("coverage,fuzzing", 0.6), ("stateful", 0.4))

# Who calls, and the share of the time: the more one may do, the more there is to try.
ROLES = {"admin": 8, "super_admin": 7, "api_key": 6, "user": 5, "nobody": 4}
# So many at once.
LANES = 2
LIMITS = ["RATE_LIMIT_IP", "RATE_LIMIT_CALLER", "RATE_LIMIT_LOGIN", "RATE_LIMIT_REGISTER"]
LIMITS += ["RATE_LIMIT_TENANT_BASIC", "RATE_LIMIT_TENANT_PRO", "RATE_LIMIT_TENANT_ENTERPRISE"]


def main():
    options = arguments()
    # So that what was started ends, however we do.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # Beside it schemathesis keeps what it has found, which is of this service, and gone with it.
        shutil.copy(HERE / CONFIG, folder)
        settings, url = start(stack, folder, options)
        if options.serve:
            print(json.dumps({"TENANTRY_URL": url + "/api/v1", **settings}), flush=True)
            threading.Event().wait()
        share = options.seconds * LANES / sum(ROLES[role] for role in options.roles)
        with concurrent.futures.ThreadPoolExecutor(LANES) as lanes:
            call = lambda role: call_as(role, max(1, int(ROLES[role] * share)), settings, url, folder, options)
            counts = list(lanes.map(call, options.roles))
        # What has panicked has lost a connection, or was hidden by an answer of its own.
        panics = [line for line in (folder / "log").read_text().splitlines() if "panicked at" in line]
        for line in panics:
            print(line)
    passed = sum(cases - failures for cases, failures, _ in counts)
    failed = sum(failures for _, failures, _ in counts) + len(panics) + in_vain([told for _, _, told in counts], options.roles)
    if failed:
        print(f"again: scripts/schemathesis --seed {options.seed} --seconds {options.seconds} --roles {','.join(options.roles)}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


def in_vain(told, roles):
    """How many operations have never succeeded, though everybody has called them; and what they were told."""
    missing = {operation for operation in operations() if not any(operation in each["succeeded"] for each in told)}
    print("without a success in this run:", ", ".join(sorted(missing)) or "none")
    for operation in sorted(missing):
        for role, each in zip(roles, told):
            print(f"  {operation} as {role}: {each['told'].get(operation, 'not asked')}")
    return len(missing) if set(roles) == set(ROLES) else 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="target/debug", help="the folder of the programs")
    parser.add_argument("--seconds", type=int, default=45, help="how long all roles together call")
    parser.add_argument("--seed", type=int, default=8, help="what is generated is the same under the same seed")
    parser.add_argument("--roles", type=lambda text: text.split(","), default=list(ROLES), help="who calls")
    parser.add_argument("--serve", action="store_true", help="start the service and nothing else")
    return parser.parse_args()


def call_as(role, seconds, settings, url, folder, options):
    """Runs schemathesis, phase by phase; how many cases there were, how many failures, and what operations have told."""
    phases, failures, told, said = {}, 0, {"succeeded": set(), "told": {}}, ""
    # Walks apart: whatever is slow before them would leave them no time.
    for names, share in PHASES:
        tally = folder / f"{role}-{names}.json"
        command = [pathlib.Path(sys.executable).with_name("schemathesis"), "--config-file", folder / CONFIG]
        command += ["run", DOCUMENT, "--url", url, "--phases", names, "--seed", str(options.seed)]
        command += ["--max-time", str(max(1, round(seconds * share)))] if share else []
        environment = {
            **os.environ,
            **settings,
            "TENANTRY_ROLE": role,
            "TENANTRY_URL": url + "/api/v1",
            "TENANTRY_TALLY": str(tally),
            "SCHEMATHESIS_HOOKS": "hooks",
            "PYTHONPATH": str(HERE),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        # What has not ended by then never will: that is an error, and ends all.
        limit = 10 * seconds + 120
        done = subprocess.run(command, env=environment, cwd=folder, text=True, capture_output=True, timeout=limit)
        counted = json.loads(tally.read_text()) if tally.exists() else {"phases": {}, "succeeded": [], "told": {}}
        found = sum(phase["failures"] for phase in counted["phases"].values())
        # It fails by itself as well: of an error that is no answer, or of a document that it cannot read.
        failures += max(found, int(done.returncode != 0))
        said += done.stdout + done.stderr if done.returncode != 0 else ""
        phases.update(counted["phases"])
        told["succeeded"].update(counted["succeeded"])
        told["told"].update(counted["told"])
    cases = sum(phase["cases"] for phase in phases.values())
    failures += cases == 0
    by_phase = ", ".join(f"{name} {phase['cases']}" for name, phase in phases.items())
    print(f"{role}: {cases} cases ({by_phase}), {failures} failures\n{said}", end="", flush=True)
    return cases, failures, told


def operations():
    paths = json.loads(DOCUMENT.read_text())["paths"].values()
    return {operation["operationId"] for methods in paths for operation in methods.values()}


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
        "SMTP_URL": stack.enter_context(mail_server(folder / "tokens")),
        "TENANTRY_TOKENS": str(folder / "tokens"),
        "STRIPE_SECRET_KEY": "sk_test_schemathesis",
        "STRIPE_WEBHOOK_SECRETS": secret,
        "STRIPE_API_BASE": f"http://{stripe}",
        "STRIPE_RATE_LIMIT": "1000",
        # More than one caller fills soon: what needs a seat is to succeed.
        "PLAN_SEATS": "basic=100",
        # High, not off: what is told of limits is told.
        **dict.fromkeys(LIMITS, "10000000/1m"),
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
def mail_server(tokens):
    """One that takes everything: mails that fail would be tried again. Of each it keeps the token, by the page it is for."""

    class Taking(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"220 taking\r\n")
            mail = None
            for line in self.rfile:
                command = line.strip()
                if mail is not None and command != b".":
                    mail.append(line)
                    continue
                if mail is not None:
                    keep(b"".join(mail), tokens)
                mail = [] if command == b"DATA" else None
                self.wfile.write(b"354 go on\r\n" if command == b"DATA" else b"250 taking\r\n")
                if command == b"QUIT":
                    return

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Taking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield "smtp://127.0.0.1:%d" % server.server_address[1]
        server.shutdown()


def keep(mail, tokens):
    parts = email.message_from_bytes(mail, policy=email.policy.default)
    text = parts.get_body(("plain",)).get_content()
    for page, token in re.findall(r"/([a-z-]+)\?token=([A-Za-z0-9_-]+)", text):
        (tokens / page).mkdir(parents=True, exist_ok=True)
        (tokens / page / token).touch()


if __name__ == "__main__":
    main()
