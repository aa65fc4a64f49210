"""A tenant to call from: one that may be closed, its people deactivated, their passwords changed. Another one is made then."""

import json
import os
import pathlib
import subprocess
import uuid

import requests

DOCUMENT = pathlib.Path(__file__).resolve().parent.parent.parent / "openapi" / "openapi.json"
PASSWORD = "Correct-Horse-1"


def scopes():
    """Every scope that there is."""
    return json.loads(DOCUMENT.read_text())["components"]["schemas"]["ApiKeyScope"]["enum"]


class Refused(Exception):
    """What was to be made before a request has been refused."""


class Household:
    def __init__(self, url, role):
        self.url, self.role = url, role
        self.http = requests.Session()
        # The caller's credential, and the one of whoever may make what the caller works on.
        self.held, self.owner = None, None

    def credential(self):
        if self.held is None:
            self.held = getattr(self, "new_" + self.role)()
        return self.held

    def fresh(self):
        """Another one, to which nothing has happened yet."""
        self.held = None
        return self.credential()

    def make(self, path, body=None, method="POST", **headers):
        """What is there before the request that is about it. The answer's data, if there is any."""
        self.credential()
        return self.call(method, path, body, self.owner, **headers)

    def version(self, tenant):
        """What `If-Match` takes of a tenant."""
        answer = self.http.get(f"{self.url}/tenants/{tenant}", headers={"Authorization": f"Bearer {self.owner}"}, timeout=30)
        return answer.headers.get("ETag", "*")

    def look(self):
        """Whether the credential still lets its holder in; else the next call comes from another household."""
        if self.held is None:
            return
        # An API key may not ask who it is.
        path = "/users?limit=1" if self.role == "api_key" else "/users/me"
        answer = self.http.get(self.url + path, headers={"Authorization": f"Bearer {self.held}"}, timeout=30)
        if answer.status_code != 200:
            self.held = None

    def new_admin(self):
        return self.sign_up()

    def new_user(self):
        self.sign_up()
        self.post("/users", {"email": "user@example.org", "name": "Uma User", "password": PASSWORD}, self.owner)
        return self.sign_in("user@example.org")

    def new_api_key(self):
        self.sign_up()
        key = {"name": "all scopes", "scopes": scopes(), "requests_per_minute": 1_000_000}
        return self.post("/api-keys", key, self.owner)["key"]

    def new_super_admin(self):
        """On the command line, since nobody becomes one over HTTP."""
        self.slug, email = "system", f"{uuid.uuid4().hex}@example.org"
        tenantry = os.environ["TENANTRY"]
        make = [tenantry, "users", "create", "--super-admin", "--email", email, "--name", "Sue", "--password-stdin"]
        subprocess.run(make, input=PASSWORD + "\n", text=True, check=True, capture_output=True, cwd="/")
        self.owner = self.sign_in(email)
        return self.owner

    def new_nobody(self):
        return self.sign_up()

    def sign_up(self):
        """A tenant and its administrator, who is signed in."""
        self.slug = "s-" + uuid.uuid4().hex
        admin = {"email": "admin@example.org", "password": PASSWORD, "name": "Ada Admin"}
        self.post("/auth/register", {"tenant": {"name": "Household", "slug": self.slug}, **admin})
        self.owner = self.sign_in(admin["email"])
        return self.owner

    def sign_in(self, email):
        self.email = email
        answer = self.post("/auth/login", self.login())
        self.user, self.refresh_token = answer["user"]["id"], answer["refresh_token"]
        self.tenant = answer["user"]["tenant_id"]
        return answer["token"]

    def login(self):
        return {"tenant": self.slug, "email": self.email, "password": PASSWORD}

    def post(self, path, body, credential=None):
        return self.call("POST", path, body, credential)

    def call(self, method, path, body=None, credential=None, **headers):
        if credential:
            headers["Authorization"] = f"Bearer {credential}"
        form = {"data": body} if isinstance(body, str) else {"json": body}
        answer = self.http.request(method, self.url + path, headers=headers, timeout=30, **form)
        if not answer.ok:
            raise Refused(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json()["data"] if answer.content else None
