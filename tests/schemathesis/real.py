"""Bodies with what no document can say, by the operation that takes them."""

import os
import pathlib
import uuid

from household import PASSWORD


def sign_up(household):
    admin = {"email": "admin@example.org", "password": PASSWORD, "name": "Ada Admin"}
    return {"tenant": {"name": "Another", "slug": "s-" + uuid.uuid4().hex}, **admin}


def login(household):
    household.credential()
    return household.login()


def refresh(household):
    household.credential()
    token, household.refresh_token = household.refresh_token, None
    return token and {"refresh_token": token}


def addressee(household):
    household.credential()
    return {"tenant": household.slug, "email": household.email}


def create_user(household):
    return {"email": f"{uuid.uuid4().hex}@example.org", "name": "Some One", "password": PASSWORD}


def change_password(household):
    return {"current_password": PASSWORD, "new_password": PASSWORD}


def password(household):
    return {"current_password": PASSWORD}


def with_token(page, **fields):
    """The token of a mail, each of which is taken once."""

    def body(household):
        for token in pathlib.Path(os.environ["TENANTRY_TOKENS"], page).glob("*"):
            try:
                token.unlink()
            except FileNotFoundError:
                continue
            return {"token": token.name, **fields}
        return None

    return body


def invite(household):
    return {"emails": [f"{uuid.uuid4().hex}@example.org"]}


def checkout(household):
    back = os.environ["PUBLIC_URL"]
    return {"plan": "pro", "success_url": back + "/done", "cancel_url": back + "/back"}


def portal(household):
    return {"return_url": os.environ["PUBLIC_URL"] + "/back"}


def job(household):
    household.credential()
    return {"kind": "verify_email", "payload": {"user_id": household.user}}


def introspect(household):
    return {"token": household.credential()}


BODIES = {
    "register": sign_up,
    "createTenant": sign_up,
    "login": login,
    "refreshSession": refresh,
    "resendVerification": addressee,
    "forgotPassword": addressee,
    "verifyEmail": with_token("verify-email"),
    "resetPassword": with_token("reset-password", password=PASSWORD),
    "acceptInvitation": with_token("accept-invitation", name="In Vited", password=PASSWORD),
    "changePassword": change_password,
    "startTotp": password,
    "introspectToken": introspect,
    "createUser": create_user,
    "createInvitations": invite,
    "createCheckoutSession": checkout,
    "createPortalSession": portal,
    "pushJob": job,
}
