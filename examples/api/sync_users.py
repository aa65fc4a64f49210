"""Keeps a table of one's own in step with the users of a tenant, by an API key of the scope users:read.

    TENANTRY_API_KEY=tk_... python sync_users.py https://accounts.example.org users.db [PAGE]
"""

import os
import sqlite3
import sys

from tenantry import Tenantry

TABLE = """
create table if not exists users (
    id text primary key, email text not null, name text not null, role text not null,
    version integer not null, seen integer not null)
"""

# Never back to an older version: whatever else writes here may be ahead of a list that was read a moment ago.
UPSERT = """
insert into users (id, email, name, role, version, seen) values (:id, :email, :name, :role, :version, :run)
on conflict (id) do update set
    email = case when excluded.version >= version then excluded.email else email end,
    name = case when excluded.version >= version then excluded.name else name end,
    role = case when excluded.version >= version then excluded.role else role end,
    version = max(version, excluded.version), seen = excluded.seen
"""


def sync(api: Tenantry, database: sqlite3.Connection, page: int) -> tuple[int, int]:
    """Takes in all users; how many there are, and how many have gone since the last time."""
    # One transaction: whoever reads the table sees the state before or the state after.
    with database:
        database.execute(TABLE)
        (run,) = database.execute("select coalesce(max(seen), 0) + 1 from users").fetchone()
        users = 0
        for user in api.users(page):
            database.execute(UPSERT, {**user, "run": run})
            users += 1
        gone = database.execute("delete from users where seen < ?", (run,)).rowcount
    return users, gone


def main() -> None:
    url, path = sys.argv[1:3]
    page = int(sys.argv[3]) if len(sys.argv) > 3 else 100
    api = Tenantry(url, os.environ["TENANTRY_API_KEY"])
    database = sqlite3.connect(path)
    users, gone = sync(api, database, page)
    database.close()
    print(f"{users} users, {gone} gone, {api.waits} waits")


if __name__ == "__main__":
    main()
