"""What the generated Python client does against a live service. `tests/it/sdks.rs` runs it, and answers on its standard input what
a mail says."""

import os
import sys
from typing import TypeVar
from uuid import UUID

from tenantry_client import AuthenticatedClient, Client
from tenantry_client.api.authentication import login, logout, refresh_session, register, verify_email
from tenantry_client.api.users import create_user, delete_user, get_me, get_user, list_users, update_user
from tenantry_client.models import (
    CreateUser,
    Cursor,
    ErrorCode,
    ErrorResponse,
    ListedUserListResponse,
    Login,
    Logout,
    NewTenant,
    Refresh,
    SignedInSession,
    SignedInSessionResponse,
    SignedUpResponse,
    SignUp,
    UpdateUser,
    UserResponse,
    VerifyEmail,
)
from tenantry_client.types import Response

URL = os.environ["TENANTRY_URL"]
TENANT = os.environ["TENANTRY_TENANT"]
EMAIL = "ada@acme.example"
PASSWORD = "Correct-Horse-1"

T = TypeVar("T")


def failed(answer: Response[T], status: int, code: ErrorCode) -> ErrorResponse:
    """That an answer is this error, as a typed value."""
    error = answer.parsed
    assert isinstance(error, ErrorResponse), answer
    assert (answer.status_code, error.error.status_code, error.error.code) == (status, status, code)
    return error


def sign_up(client: Client) -> None:
    tenant = NewTenant(name="Acme", slug=TENANT)
    body = SignUp(tenant=tenant, email=EMAIL, password=PASSWORD, name="Ada Lovelace")
    made = register.sync(client=client, body=body)
    assert isinstance(made, SignedUpResponse), made
    assert not made.data.user.email_verified
    print(f"verify {made.data.tenant.id} {EMAIL}", flush=True)
    token = sys.stdin.readline().strip()
    verified = verify_email.sync(client=client, body=VerifyEmail(token=token))
    assert isinstance(verified, UserResponse), verified
    assert verified.data.email_verified


def sign_in(client: Client) -> SignedInSession:
    wrong = Login(tenant=TENANT, email=EMAIL, password="Wrong-Horse-1")
    failed(login.sync_detailed(client=client, body=wrong), 401, ErrorCode.INVALID_CREDENTIALS)
    begun = login.sync(client=client, body=Login(tenant=TENANT, email=EMAIL, password=PASSWORD))
    assert isinstance(begun, SignedInSessionResponse), begun
    renewed = refresh_session.sync(client=client, body=Refresh(refresh_token=begun.data.refresh_token))
    assert isinstance(renewed, SignedInSessionResponse), renewed
    assert renewed.data.refresh_token != begun.data.refresh_token
    return renewed.data


def make_users(client: AuthenticatedClient) -> list[UUID]:
    ids = []
    for n in range(5):
        body = CreateUser(email=f"user{n}@acme.example", name="Grace Hopper")
        made = create_user.sync_detailed(client=client, body=body)
        assert isinstance(made.parsed, UserResponse), made
        assert made.headers["ETag"] == '"1"'
        ids.append(made.parsed.data.id)
    taken = CreateUser(email="user0@acme.example", name="Grace Hopper")
    failed(create_user.sync_detailed(client=client, body=taken), 409, ErrorCode.EMAIL_TAKEN)
    body = CreateUser(email="nobody", name="Grace Hopper", password="too-simple")
    wrong = failed(create_user.sync_detailed(client=client, body=body), 422, ErrorCode.VALIDATION_FAILED)
    assert {error.field for error in wrong.error.errors} == {"/email", "/password"}
    return ids


def one_user(client: AuthenticatedClient, id: UUID) -> None:
    read = get_user.sync_detailed(id, client=client)
    assert isinstance(read.parsed, UserResponse), read
    assert (read.parsed.data.name, read.parsed.data.pending_email) == ("Grace Hopper", None)
    etag = read.headers["ETag"]
    assert get_user.sync_detailed(id, client=client, if_none_match=etag).status_code == 304
    body = UpdateUser(name="Grace Murray Hopper")
    changed = update_user.sync_detailed(id, client=client, body=body, if_match=etag)
    assert isinstance(changed.parsed, UserResponse), changed
    assert (changed.parsed.data.name, changed.headers["ETag"]) == (body.name, '"2"')
    stale = update_user.sync_detailed(id, client=client, body=body, if_match=etag)
    failed(stale, 412, ErrorCode.VERSION_MISMATCH)
    assert delete_user.sync_detailed(id, client=client).status_code == 204
    failed(get_user.sync_detailed(id, client=client), 404, ErrorCode.USER_NOT_FOUND)


def every_page(client: AuthenticatedClient, ids: list[UUID]) -> None:
    found: list[UUID] = []
    parts = 0
    cursor: str | None = "first"
    while cursor is not None:
        part = list_users.sync(client=client, cursor=cursor, limit=2)
        assert isinstance(part, ListedUserListResponse), part
        parts += 1
        found.extend(user.id for user in part.data)
        assert isinstance(part.pagination, Cursor), part
        cursor = part.pagination.next_cursor
    assert (len(found), len(set(found)), parts) == (5, 5, 3)
    assert set(ids) < set(found)


def main() -> None:
    anonymous = Client(base_url=URL)
    sign_up(anonymous)
    session = sign_in(anonymous)
    client = AuthenticatedClient(base_url=URL, token=session.token)
    first, *others = make_users(client)
    one_user(client, first)
    every_page(client, others)
    ended = logout.sync_detailed(client=client, body=Logout(refresh_token=session.refresh_token))
    assert ended.status_code == 204
    failed(get_me.sync_detailed(client=client), 401, ErrorCode.UNAUTHENTICATED)
    print("done")


main()
