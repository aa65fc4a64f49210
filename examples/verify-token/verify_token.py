"""Verifies access tokens by the published keys, with PyJWT: no request to Tenantry for each token.

    python verify_token.py ISSUER [JWKS_URL]      (tokens on standard input, one a line)

ISSUER is Tenantry's PUBLIC_URL. What this cannot know, above all whether a token has been revoked: docs/verifying-tokens.md.
"""

import json
import os
import sys
import threading
import time
import urllib.request

import jwt


class KeySet:
    """The published keys: fetched when they are needed, kept, and fetched anew for an id that is not among them."""

    # Without an answer for this long, no key is believed to be still in use.
    MAX_AGE = 600
    TIMEOUT = 5

    def __init__(self, url: str, cooldown: float = 60):
        """Tokens name any key that their makers like: `cooldown` is the least time between two fetches, in seconds."""
        self.url, self.cooldown = url, cooldown
        self.keys: dict[str, jwt.PyJWK] = {}
        self.fetched = self.tried = float("-inf")
        self.lock = threading.Lock()

    def get(self, key_id: str) -> jwt.PyJWK:
        if self._stale() or key_id not in self.keys:
            with self.lock:
                # Another thread may have fetched meanwhile.
                if (self._stale() or key_id not in self.keys) and time.monotonic() - self.tried >= self.cooldown:
                    self._fetch()
        if self._stale():
            raise jwt.PyJWKClientConnectionError("the published keys cannot be fetched")
        if key_id not in self.keys:
            raise jwt.InvalidKeyError("no published key has this id")
        return self.keys[key_id]

    def _stale(self) -> bool:
        return time.monotonic() - self.fetched > self.MAX_AGE

    def _fetch(self) -> None:
        self.tried = time.monotonic()
        try:
            with urllib.request.urlopen(self.url, timeout=self.TIMEOUT) as answer:
                published = json.load(answer)["keys"]
            # A kind of key that this program does not know is no reason to refuse the others.
            self.keys = {key["kid"]: jwt.PyJWK(key) for key in published if key.get("alg") == "EdDSA"}
            self.fetched = self.tried
        except (OSError, ValueError, KeyError, jwt.PyJWTError) as error:
            print(f"the published keys cannot be fetched: {error}", file=sys.stderr)


def verify(token: str, keys: KeySet, issuer: str) -> dict:
    """What the token says, or an exception of PyJWT."""
    header = jwt.get_unverified_header(token)
    # The token does not choose how it is verified: only what it may be is let through.
    if header.get("alg") != "EdDSA" or header.get("typ") != "at+jwt":
        raise jwt.InvalidTokenError("not an access token")
    return jwt.decode(
        token,
        keys.get(str(header.get("kid"))),
        algorithms=["EdDSA"],
        issuer=issuer,
        options={"require": ["iss", "exp", "sub", "tid", "sid", "role"]},
    )


def main() -> None:
    issuer = sys.argv[1]
    url = sys.argv[2] if len(sys.argv) > 2 else f"{issuer}/.well-known/jwks.json"
    keys = KeySet(url, float(os.environ.get("JWKS_COOLDOWN", 60)))
    for line in sys.stdin:
        try:
            claims = verify(line.strip(), keys, issuer)
            print(f"user {claims['sub']} of tenant {claims['tid']}", flush=True)
        except jwt.PyJWTError as error:
            print(f"refused: {error}", flush=True)


if __name__ == "__main__":
    main()
