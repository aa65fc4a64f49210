#!/bin/sh
# A tour of the API with curl: sign up, sign in, users, pages, retries, and what errors look like.
#
#     sh tour.sh http://127.0.0.1:8080
#
# It makes a tenant of its own. Values are cut out of the JSON by sed, so that nothing but curl is needed; use jq in earnest.
set -eu

api=$1/api/v1
slug=tour-$(date +%s)-$$
json='Content-Type: application/json'
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Asks, and keeps status, headers and body of the answer.
ask() {
    method=$1 path=$2
    shift 2
    status=$(curl --silent --show-error --request "$method" "$api$path" \
        --dump-header "$scratch/headers" --output "$scratch/body" --write-out '%{http_code}' "$@")
}

expect() {
    [ "$status" = "$1" ] && return
    echo "expected $1, got $status: $(cat "$scratch/body")" >&2
    exit 1
}

# The first value of a key in the answer's body; a header of the answer.
value() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p' "$scratch/body" | head -n 1; }
header() { tr -d '\r' <"$scratch/headers" | sed -n 's/^'"$1"': //p'; }

# --- A tenant and its administrator. Whoever gets no answer sends the same again with the same key: one tenant is made.
key=$(cat /proc/sys/kernel/random/uuid 2>/dev/null || uuidgen)
for attempt in first again; do
    ask POST /auth/register -H "$json" -H "Idempotency-Key: $key" -d '{
        "tenant": {"name": "Tour", "slug": "'"$slug"'"},
        "email": "ada@example.org", "password": "Correct-Horse-1", "name": "Ada"}'
    expect 201
done
echo "signed up: tenant $slug (sent twice, replayed: $(header idempotency-replayed))"

# --- A session: an access token for minutes, and a refresh token that is good for one renewal.
ask POST /auth/login -H "$json" -d '{"tenant": "'"$slug"'", "email": "ada@example.org", "password": "Correct-Horse-1"}'
expect 200
refresh=$(value refresh_token)
ask POST /auth/refresh -H "$json" -d '{"refresh_token": "'"$refresh"'"}'
expect 200
auth="Authorization: Bearer $(value token)"
echo 'signed in, and renewed'

# --- Users. What is made has an address, and a version in its ETag.
for n in 1 2 3 4 5; do
    ask POST /users -H "$auth" -H "$json" -d '{"email": "user'$n'@example.org", "name": "User '$n'"}'
    expect 201
done
user=$(value id) version=$(header etag)

# Nothing is overwritten that somebody else has changed meanwhile: the version says what was seen.
ask PATCH "/users/$user" -H "$auth" -H "$json" -H "If-Match: $version" -d '{"name": "Grace"}'
expect 200
ask PATCH "/users/$user" -H "$auth" -H "$json" -H "If-Match: $version" -d '{"name": "Edsger"}'
expect 412
echo "a change of an old version is refused: $(value code)"

# Nothing is sent again that has not changed.
ask GET "/users/$user" -H "$auth"
expect 200
ask GET "/users/$user" -H "$auth" -H "If-None-Match: $(header etag)"
expect 304
echo 'unchanged: 304'

# --- All users, part by part; the cursor of each leads to the next.
cursor=first seen=0
while [ -n "$cursor" ]; do
    ask GET "/users?limit=2&cursor=$cursor" -H "$auth"
    expect 200
    seen=$((seen + $(grep -o '"tenant_id"' "$scratch/body" | wc -l)))
    cursor=$(value next_cursor)
done
echo "listed $seen users"

# --- Errors have one shape. All wrong fields are told at once, and the request id leads to our log.
ask POST /users -H "$auth" -H "$json" -d '{"email": "nonsense", "role": "queen"}'
expect 422
echo "wrong fields: $(grep -o '"field":"[^"]*"' "$scratch/body" | cut -d '"' -f 4 | sort | tr '\n' ' ')"

ask DELETE "/users/$user" -H "$auth"
expect 204
ask GET "/users/$user" -H "$auth"
expect 404
echo "deleted: $(value code)"
