"""What a request is about, made just before it: with it every operation can succeed for somebody, whatever chance has made so far."""

import base64
import dataclasses
import hashlib
import hmac
import json
import os
import struct
import time
import uuid

from household import PASSWORD
from real import BODIES

# How long workers may take to do what a request waits for.
PATIENCE = 60


@dataclasses.dataclass
class Request:
    """What is asked for; what is not told is not sent."""

    body: object = None
    media_type: str = "application/json"
    path: dict = dataclasses.field(default_factory=dict)
    query: dict = dataclasses.field(default_factory=dict)
    headers: dict = dataclasses.field(default_factory=dict)


def request(household, operation):
    """One that succeeds for those who may."""
    if operation in THINGS:
        return THINGS[operation](household)
    body = BODIES[operation](household) if operation in BODIES else None
    return Request(body)


def about(thing, body=None):
    """A request whose path names the thing that is made."""
    return lambda household: Request(body, path={"id": thing(household)})


def eventually(ask, what):
    """Its first answer that is one: workers do things in their own time."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if answer := ask():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"{what}: nothing within {PATIENCE} s")


def user(household, **fields):
    return household.make("/users", {"email": f"{uuid.uuid4().hex}@example.org", "name": "Some One", **fields})["id"]


def deleted_user(household):
    gone = user(household)
    household.make(f"/users/{gone}", method="DELETE")
    return gone


def tenant(household):
    household.credential()
    return household.tenant


def closed_tenant(household):
    """Another one, which the caller's owner has closed, if that is a super administrator."""
    admin = {"email": "admin@example.org", "password": PASSWORD, "name": "Ada Admin"}
    signed_up = household.make("/auth/register", {"tenant": {"name": "Closing", "slug": "s-" + uuid.uuid4().hex}, **admin})
    closing = signed_up["tenant"]["id"]
    household.make(f"/tenants/{closing}", method="DELETE", **{"If-Match": household.version(closing)})
    return closing


def closing(household):
    mine = tenant(household)
    return Request(path={"id": mine}, headers={"If-Match": household.version(mine)})


def session(household):
    """Another one of the caller's."""
    household.credential()
    payload = household.post("/auth/login", household.login())["token"].split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sid"]


def api_key(household):
    return household.make("/api-keys", {"name": uuid.uuid4().hex, "scopes": ["users:read"]})["api_key"]["id"]


def invitation(household):
    return household.make("/invitations", {"emails": [f"{uuid.uuid4().hex}@example.org"]})["invitations"][0]["id"]


def import_of_users(household):
    return household.make("/users/imports", row(), **{"Content-Type": "application/x-ndjson"})["id"]


def row():
    return json.dumps({"email": f"{uuid.uuid4().hex}@example.org", "name": "Some One"}) + "\n"


def waiting_job(household):
    later = {"payload": {"user_id": user(household)}, "run_at": "2099-01-01T00:00:00Z"}
    return household.make("/jobs", {"kind": "verify_email", **later})["id"]


def cancelled_job(household):
    job = waiting_job(household)
    household.make(f"/jobs/{job}/cancel")
    return job


def subscription(household):
    """Bought on the page of the checkout, and told by Stripe."""
    back = os.environ["PUBLIC_URL"]
    page = household.make("/billing/checkout-sessions", {"plan": "pro", "success_url": back, "cancel_url": back})["url"]
    household.http.post(page, data={"action": "pay"}, allow_redirects=False, timeout=30).raise_for_status()
    told = lambda: household.make("/subscriptions", method="GET")["subscriptions"]
    return eventually(told, "a subscription that was paid for")[0]["id"]


def member(household):
    """The path of a user in a project."""
    path = {"id": user(household), "project_id": str(uuid.uuid4())}
    household.make("/users/{id}/projects/{project_id}".format(**path), method="PUT")
    return path


def code(secret):
    """What an authenticator shows now (RFC 6238)."""
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    digest = hmac.digest(key, struct.pack(">Q", int(time.time()) // 30), hashlib.sha1)
    at = digest[-1] & 15
    return f"{(struct.unpack('>I', digest[at : at + 4])[0] & 0x7FFFFFFF) % 1_000_000:06}"


def begin_factor(household, credential):
    """What proves the second factor that is begun."""
    begun = household.call("POST", "/auth/totp", {"current_password": PASSWORD}, credential)
    return {"code": code(begun["secret"])}


def prove_factor(household, credential):
    """The recovery codes of a second factor of the credential's holder."""
    proof = begin_factor(household, credential)
    return household.call("POST", "/auth/totp/confirm", proof, credential)["recovery_codes"]


def both_factors(household):
    """Of somebody who has just got the second one: what one holds for long, others may have taken away."""
    recovery_codes = prove_factor(household, household.fresh())
    return Request({"current_password": PASSWORD, "code": recovery_codes[0]})


def user_with_factor(household):
    email = f"{uuid.uuid4().hex}@example.org"
    somebody = user(household, email=email, password=PASSWORD)
    prove_factor(household, household.post("/auth/login", {**household.login(), "email": email})["token"])
    return somebody


def stripe_event(household):
    """Signed as Stripe does."""
    stripe_object = {"id": "sub_" + uuid.uuid4().hex, "object": "subscription"}
    event = {"id": "evt_" + uuid.uuid4().hex, "object": "event", "type": "customer.subscription.updated"}
    event |= {"created": int(time.time()), "livemode": False, "data": {"object": stripe_object}}
    body = json.dumps(event).encode()
    signed = b"%d.%s" % (event["created"], body)
    mac = hmac.digest(os.environ["STRIPE_WEBHOOK_SECRETS"].encode(), signed, hashlib.sha256).hex()
    return Request(body, headers={"Stripe-Signature": f"t={event['created']},v1={mac}"})


def mailed(operation, cause):
    """A request with the token of a mail that is waited for."""

    def make(household):
        cause(household)
        return Request(eventually(lambda: BODIES[operation](household), "a mail"))

    return make


def forget_password(household):
    household.credential()
    household.post("/auth/forgot-password", {"tenant": household.slug, "email": household.email})


def find_by_metadata(household):
    somebody = user(household)
    household.make(f"/users/{somebody}/metadata", {"public": {"number": somebody}}, method="PATCH")
    return Request(query={"key": "number", "value": somebody})


def own_address(household):
    household.credential()
    return Request(query={"email": household.email})


THINGS = {
    "createApiKey": lambda household: Request({"name": "A key", "scopes": ["users:read"]}),
    "logout": lambda household: Request({}),
    "deleteApiKey": about(api_key),
    "deleteSession": about(session),
    "verifyEmail": mailed("verifyEmail", lambda household: household.fresh()),
    "resetPassword": mailed("resetPassword", forget_password),
    "confirmTotp": lambda household: Request(begin_factor(household, household.fresh())),
    "disableTotp": both_factors,
    "renewRecoveryCodes": both_factors,
    "resetUserTotp": about(user_with_factor),
    "acceptInvitation": mailed("acceptInvitation", invitation),
    "deleteInvitation": about(invitation),
    "resendInvitation": about(invitation),
    "getJob": about(waiting_job),
    "cancelJob": about(waiting_job),
    "retryJob": about(cancelled_job),
    "retryDeadJobs": lambda household: Request({"kind": "verify_email"}),
    "getSubscription": about(subscription),
    "getTenant": about(tenant),
    "updateTenant": about(tenant, {"name": "Another name"}),
    "closeTenant": closing,
    "reopenTenant": about(closed_tenant),
    "getTenantMetadata": about(tenant),
    "updateTenantMetadata": about(tenant, {"public": {"number": 1}}),
    "batchGetUsers": lambda household: Request({"ids": [user(household)]}),
    "bulkCreateUsers": lambda household: Request({"users": [json.loads(row())]}),
    "findUsersByMetadata": find_by_metadata,
    "lookupUser": own_address,
    "createImport": lambda household: Request(row().encode(), "application/x-ndjson"),
    "getImport": about(import_of_users),
    "getImportReport": about(import_of_users),
    "deleteImport": about(import_of_users),
    "getUser": about(user),
    "updateUser": about(user, {"name": "Another name"}),
    "deleteUser": about(user),
    "getUserData": about(user),
    "eraseUser": about(user),
    "restoreUser": about(deleted_user),
    "getUserMetadata": about(user),
    "updateUserMetadata": about(user, {"public": {"number": 1}}),
    "listUserProjects": about(user),
    "putUserProject": lambda household: Request(path={"id": user(household), "project_id": str(uuid.uuid4())}),
    "deleteUserProject": lambda household: Request(path=member(household)),
    "receiveStripeEvent": stripe_event,
}
