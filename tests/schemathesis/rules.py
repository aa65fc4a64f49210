"""Which refusals of a request that fits the document are right all the same, each by its code."""

import json

# Rules about what is there, not about how a request looks.
OF_THE_STATE = {
    "idempotency_key_reused",  # the key was another request's
    "invalid_cursor",  # cursors are ours, and opaque
    "invalid_token",  # so are tokens
    "invalid_code",  # and codes
    "invalid_signature",  # Stripe's, over the body
    "wrong_password",
    "wrong_second_factor",
    "not_sold",  # prices are a setting
    "foreign_origin",  # so are origins
}

# Rules that a pattern or a format cannot say, or not in a way that generators understand; the document says them in words.
IN_WORDS = {
    "no_uppercase",
    "no_lowercase",
    "no_digit",
    "too_common",
    "invalid_characters",  # control characters, or NUL alone
    "invalid_key",  # control characters, and how long names of a free object are
    "invalid_email",  # narrower than RFC 5322
}

# The same by field: codes that a schema can say elsewhere.
IN_WORDS_OF_FIELDS = {
    ("value", "too_long"),  # in bytes, of what an index holds
    ("page", "not_allowed"),  # not beside a cursor
    ("page", "too_deep"),  # by the limit as well
    ("columns", "invalid_columns"),  # of the names of our fields
    ("columns", "missing"),  # the header of the rows has others
    ("/expires_at", "out_of_range"),  # a time to come
    ("/run_at", "out_of_range"),  # a time of these centuries
    ("/tenant", "missing"),  # here or as a header
    ("/plan", "missing"),  # or a price
    ("/payload", "wrong_payload"),  # by kind, as openapi/jobs.schema.json has it
    ("", "empty"),  # an import without rows
}

# Of what tenants note of users, which is free: names, numbers and depth of what stands there have bounds that a schema has no words for.
# All of it together, too.
FREE = ("/public/", "/private/")
OF_WHAT_IS_FREE = {"out_of_range", "too_deep", "too_many_names", "too_long"}


def says_more_than_a_schema(response):
    if response.status_code not in (400, 422):
        return False
    error = json.loads(response.content)["error"]
    # One rule that a schema could say, and it should have.
    if error["errors"]:
        return all(is_known(wrong["code"], wrong["field"]) for wrong in error["errors"])
    return is_known(error["code"], None)


def is_no_mistake(failure, response, role, is_gone):
    """What schemathesis takes for a mistake and is none: a header that nobody has heard of lets the request in, the tenant that
    somebody of another one signs up is not theirs to see, and what was made has been deleted since."""
    if failure.code == "ST302":
        return is_gone or role != "super_admin" and json.loads(response.content)["error"]["code"] == "tenant_not_found"
    if failure.code == "ST201" and response.status_code == 207:
        return True  # each row of a bulk that is not atomic has its own errors in there
    return failure.code == "ST201" and "in header - object with unexpected properties" in failure.message


def is_known(code, field):
    if code in OF_WHAT_IS_FREE and field is not None and (field == "" or field.startswith(FREE)):
        return True
    return code in OF_THE_STATE or code in IN_WORDS or (field, code) in IN_WORDS_OF_FIELDS
