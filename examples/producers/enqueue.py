"""Enqueues a job in the transaction that makes it true, with psycopg.

    python enqueue.py TENANT USER [commit|rollback]      (DATABASE_URL in the environment)

The login may become tenantry_app, and nothing else (docs/jobs.md).
"""

import os
import sys

import psycopg
from psycopg.types.json import Jsonb


def enqueue(connection: psycopg.Connection, tenant: str, kind: str, payload: dict) -> str:
    """Within the transaction that is open; the job exists when that commits."""
    row = connection.execute(
        "select tenantry.enqueue_job(kind => %s, payload => %s, tenant_id => %s)",
        (kind, Jsonb(payload), tenant),
    ).fetchone()
    return str(row[0])


def main() -> None:
    tenant, user, end = sys.argv[1], sys.argv[2], (sys.argv[3:] or ["commit"])[0]
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        with connection.transaction(force_rollback=end == "rollback"):
            connection.execute(
                "select set_config('role', 'tenantry_app', true), set_config('tenantry.tenant', %s, true)",
                (tenant,),
            )
            # Your own change goes here: both happen, or neither.
            print(enqueue(connection, tenant, "verify_email", {"user_id": user}))


if __name__ == "__main__":
    try:
        main()
    except psycopg.Error as error:
        # A wrong kind or payload is refused here, where it is written.
        sys.exit(f"refused: {error.diag.message_primary or error}")
