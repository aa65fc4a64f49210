"""A client for a back end: an API key, and patience where the service asks for it. Python's standard library is enough."""

from __future__ import annotations

import json
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator


class Refused(Exception):
    """The service said no; `code` is one of the document's closed list."""

    def __init__(self, status: int, error: dict) -> None:
        super().__init__(f"{error['message']} ({error['code']}, request {error['request_id']})")
        self.status = status
        self.code = error["code"]


class Tenantry:
    """Asks on behalf of the tenant that the key is of."""

    def __init__(self, url: str, key: str, attempts: int = 5, sleep: Callable[[float], None] = time.sleep) -> None:
        self.url, self.key, self.attempts, self.sleep = url.rstrip("/"), key, attempts, sleep
        #: How often it was told to wait.
        self.waits = 0

    def get(self, path: str, **parameters: object) -> dict:
        """What a GET is answered. It changes nothing, so it may be asked again whatever became of it."""
        query = urllib.parse.urlencode(parameters)
        request = urllib.request.Request(
            f"{self.url}/api/v1{path}?{query}", headers={"Authorization": f"Bearer {self.key}"}
        )
        for attempt in range(1, self.attempts + 1):
            try:
                with urllib.request.urlopen(request, timeout=10) as response:
                    return json.load(response)
            except urllib.error.HTTPError as answer:
                # 429: too many requests; 503: busy. Both say for how long. Everything else stays as it is.
                if answer.code not in (429, 503) or attempt == self.attempts:
                    raise Refused(answer.code, json.load(answer)["error"]) from None
                seconds = float(answer.headers.get("Retry-After", 1))
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                if attempt == self.attempts:
                    raise
                seconds = 2**attempt / 10
            self.waits += 1
            # Not all at the same moment who were sent away at the same moment.
            self.sleep(seconds + random.random() / 10)
        raise AssertionError("unreachable")

    def users(self, page: int = 100) -> Iterator[dict]:
        """All active users of the tenant, each once however they change meanwhile."""
        cursor: str | None = "first"
        while cursor:
            part = self.get("/users", cursor=cursor, limit=page, sort_by="created_at", sort_order="asc")
            yield from part["data"]
            cursor = part["pagination"]["next_cursor"]
