"""Who calls, and what schemathesis cannot know of the answers."""

import json
import os
import pathlib
import uuid

import household
import schemathesis
from household import Household, Refused
from real import BODIES
from rules import is_no_mistake, says_more_than_a_schema
from things import request

DOCUMENT = household.DOCUMENT.read_text()
ROLE = os.environ["TENANTRY_ROLE"]
HOUSEHOLD = Household(os.environ["TENANTRY_URL"], ROLE)
# Cases and failures by phase, the operations that have done what they are for, and what those requests were told that were to succeed.
PHASES, SUCCEEDED, TOLD = {}, set(), {}
# How often each operation was called with a body that can succeed; the cases that shall succeed, before and after they were made so.
CALLS, PLANNED, REAL = {}, set(), set()
# Ids of what was deleted.
GONE = set()


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
def before_add_examples(context, examples):
    """One more: a request that succeeds for those who may, so that no operation is called in vain all the time."""
    if ROLE == "nobody" and context.operation.definition.raw.get("security"):
        return
    parameters = [parameter.name for parameter in context.operation.path_parameters]
    case = context.operation.Case(path_parameters={name: str(uuid.uuid4()) for name in parameters})
    PLANNED.add(case.id)
    examples.append(case)


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.id in PLANNED:
        # Once: checks send what was sent again, such as without a credential.
        PLANNED.remove(case.id)
        REAL.add(case.id)
        make_real(case)
    elif case.meta is not None and case.meta.generation.mode.is_positive:
        make_every_other_real(case)


def make_real(case):
    """What the request is about is made just before it."""
    try:
        real = request(HOUSEHOLD, operation_of(case))
    except Refused as refused:
        TOLD[operation_of(case)] = str(refused)
        return
    case.path_parameters.update(real.path)
    case.query.update(real.query)
    case.headers.update(real.headers)
    if real.body is not None:
        case.body, case.media_type = real.body, real.media_type
    # It may have taken another household. To schemathesis only cases that it has made itself are its caller's.
    if ROLE != "nobody":
        case.headers["Authorization"] = f"Bearer {HOUSEHOLD.credential()}"
        case._has_explicit_auth = True


def make_every_other_real(case):
    """Every other call that is meant to be taken has what no document can say: passwords that are right, tokens out of mails."""
    real = BODIES.get(operation_of(case))
    if real is not None:
        CALLS[real] = CALLS.get(real, 0) + 1
        body = real(HOUSEHOLD) if CALLS[real] % 2 else None
        if body is not None:
            case.body, case.media_type = body, "application/json"


def operation_of(case):
    return case.operation.definition.raw["operationId"]


@schemathesis.hook
def after_call(context, case, response):
    if case.method.upper() not in ("GET", "HEAD", "OPTIONS") and response.status_code < 300:
        HOUSEHOLD.look()


@schemathesis.hook
def filter_failure(context, failure, case, response):
    is_gone = case.path_parameters.get("id") in GONE
    if is_no_mistake(failure, response, ROLE, is_gone) or failure.code == "ST202" and says_more_than_a_schema(response):
        return False
    of(case)["failures"] += 1
    return True


@schemathesis.check
class Tally:
    """Fails nothing, and counts: it is asked of every answer."""

    def after_response(self, ctx, response, case):
        of(case)["cases"] += 1
        # By its own method: some cases have another one, such as OPTIONS.
        if response.status_code < 300 and case.method.upper() == case.operation.method.upper():
            SUCCEEDED.add(operation_of(case))
            if case.method.upper() == "DELETE" or operation_of(case) == "eraseUser":
                GONE.add(case.path_parameters.get("id"))
        elif case.id in REAL:
            TOLD.setdefault(operation_of(case), f"{response.status_code} {response.text}")

    def after_run(self, ctx):
        tally = {"phases": PHASES, "succeeded": sorted(SUCCEEDED), "told": TOLD}
        pathlib.Path(os.environ["TENANTRY_TALLY"]).write_text(json.dumps(tally))


def of(case):
    name = case.meta.phase.name.value if case.meta else "real"
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
