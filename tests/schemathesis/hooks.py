"""Who calls, and what schemathesis cannot know of the answers."""

import json
import os
import pathlib

import household
import schemathesis
from household import Household
from real import REAL
from rules import is_no_mistake, says_more_than_a_schema

DOCUMENT = household.DOCUMENT.read_text()
ROLE = os.environ["TENANTRY_ROLE"]
HOUSEHOLD = Household(os.environ["TENANTRY_URL"], ROLE)
# Cases and failures by phase, and the operations that have done what they are for.
PHASES, SUCCEEDED = {}, set()
CALLS = {}


schemathesis.serializer.alias("application/x-ndjson", "text/plain")

# What the probes of `ignored_auth` send is no credential of ours.
if ROLE != "nobody":

    @schemathesis.auth(refresh_interval=None)
    class Credential:
        """The caller's credential, of a new household where the last one has been shut out by what it did."""

        def get(self, case, context):
            return HOUSEHOLD.credential()

        def set(self, case, credential, context):
            case.headers["Authorization"] = f"Bearer {credential}"


@schemathesis.hook
def before_call(context, case, kwargs):
    """Every other call that is meant to be taken has what no document can say: passwords that are right, tokens out of mails."""
    real = REAL.get(case.operation.definition.raw["operationId"])
    if real is not None and case.meta is not None and case.meta.generation.mode.is_positive:
        CALLS[real] = CALLS.get(real, 0) + 1
        body = real(HOUSEHOLD) if CALLS[real] % 2 else None
        if body is not None:
            case.body, case.media_type = body, "application/json"


@schemathesis.hook
def after_call(context, case, response):
    if case.method.upper() not in ("GET", "HEAD", "OPTIONS") and response.status_code < 300:
        HOUSEHOLD.look()


@schemathesis.hook
def filter_failure(context, failure, case, response):
    if is_no_mistake(failure, response, ROLE) or failure.code == "ST202" and says_more_than_a_schema(response):
        return False
    of(case)["failures"] += 1
    return True


@schemathesis.check
class Tally:
    """Fails nothing, and counts: it is asked of every answer."""

    def after_response(self, ctx, response, case):
        of(case)["cases"] += 1
        if response.status_code < 300:
            SUCCEEDED.add(case.operation.definition.raw["operationId"])

    def after_run(self, ctx):
        tally = {"phases": PHASES, "succeeded": sorted(SUCCEEDED)}
        pathlib.Path(os.environ["TENANTRY_TALLY"]).write_text(json.dumps(tally))


def of(case):
    name = case.meta.phase.name.value if case.meta else "other"
    return PHASES.setdefault(name, {"cases": 0, "failures": 0})


@schemathesis.check
def no_server_error_at_all(ctx, response, case):
    """`not_a_server_error` lets some be, and a 503 would be one of ours here: nothing is away."""
    assert response.status_code < 500, f"{response.status_code}"


@schemathesis.check
def request_id(ctx, response, case):
    said = response.headers.get("x-request-id")
    assert said and said[0], "an answer without X-Request-Id"
    if response.status_code >= 400 and case.method.upper() != "HEAD":
        error = json.loads(response.content)["error"]
        assert error["request_id"] == said[0], "the error names another request"
        assert error["status_code"] == response.status_code, "the error names another status"


@schemathesis.check
def nothing_wrong_is_echoed(ctx, response, case):
    """Messages name fields, never what was in them."""
    if response.status_code not in (400, 401, 403, 409, 415, 422):
        return
    said = json.loads(response.content)["error"]
    words = said["message"] + " ".join(error["message"] for error in said.get("errors", []))
    for value in strings(case.body if isinstance(case.body, (dict, list)) else None):
        # Short ones and those of the document, such as kinds of jobs, are words of the messages themselves.
        if len(value) >= 12 and value not in DOCUMENT:
            assert value not in words, "a value is echoed"


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)
