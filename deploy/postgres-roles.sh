#!/bin/sh
# What docs/operations.md has a superuser do once, for compose.yaml: the image of PostgreSQL runs it on a new data folder.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    --set owner="$DATABASE_OWNER_PASSWORD" --set application="$DATABASE_PASSWORD" <<'SQL'
create role tenantry_owner login createrole password :'owner';
set role tenantry_owner;
create role tenantry login noinherit password :'application';
reset role;
create database tenantry owner tenantry_owner;
SQL
