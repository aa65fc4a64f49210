#!/usr/bin/env bash
# What does a cached look-up cost beside a bare poem server that answers the same bytes?
# Both run in release builds on this machine, one after the other, three times; the median counts.
# Prints requests per second and CPU seconds of the server per 1,000 requests, and their ratios.
# Needs wrk, curl and jq. SECONDS_EACH=10 CONNECTIONS=64 are settings.
set -euo pipefail
cd "$(dirname "$0")/.."

for tool in wrk curl jq; do
    command -v $tool >/dev/null || { echo "missing: $tool; install the package of that name" >&2; exit 1; }
done
seconds=${SECONDS_EACH:-10} connections=${CONNECTIONS:-64}
work=$(mktemp -d) pids=()
stop() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null && wait "$pid" || true; done
    rm -rf "$work"
}
trap stop EXIT

cargo build --quiet --release --bin tenantry --example bare
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

api=127.0.0.1:$(port) bare=127.0.0.1:$(port)
LISTEN=$api target/release/tenantry dev --home "$work/home" >"$work/greeting" 2>"$work/access.log" &
pids+=($!)
until grep -q Bearer "$work/greeting"; do
    kill -0 "${pids[0]}" || { cat "$work/access.log" >&2; exit 1; }
    sleep 0.1
done
token=$(sed -n "s/.*Bearer \([^']*\)'.*/\1/p" "$work/greeting")
id=$(curl -sf "http://$api/api/v1/users/me" -H "Authorization: Bearer $token" | jq -r .data.id)
body=$(curl -sf "http://$api/api/v1/users/$id" -H "Authorization: Bearer $token")
target/release/examples/bare "$bare" "$body" 2>/dev/null &
pids+=($!)
until curl -sf "http://$bare/" >/dev/null; do sleep 0.1; done

ticks=$(getconf CLK_TCK)
cpu() { awk -v ticks="$ticks" '{ print ($14 + $15) / ticks }' "/proc/$1/stat"; }

# Prints "requests-per-second cpu-seconds-per-1000" of one run.
run() {
    local pid=$1 before requests
    shift
    before=$(cpu "$pid")
    wrk -t1 -c"$connections" -d"${seconds}s" "$@" >"$work/wrk"
    grep -q 'Non-2xx' "$work/wrk" && { cat "$work/wrk" >&2; exit 1; }
    requests=$(awk '/requests in/ { print $1 }' "$work/wrk")
    awk -v a="$before" -v b="$(cpu "$pid")" -v n="$requests" -v s="$seconds" 'BEGIN { printf "%d %.4f\n", n / s, (b - a) * 1000 / n }'
}
median() { sort -n | sed -n 2p; }

for _ in 1 2 3; do
    run "${pids[1]}" "http://$bare/" >>"$work/bare"
    run "${pids[0]}" "http://$api/api/v1/users/$id" -H "Authorization: Bearer $token" >>"$work/api"
done
report() { echo "$1 $(cut -d' ' -f1 "$2" | median) $(cut -d' ' -f2 "$2" | median) $(cut -d' ' -f2 "$2" | sort -n | sed -n '1p;3p' | paste -sd-)"; }
{
    echo "# $(date -u +%F), $(git rev-parse --short HEAD), $(nproc) cores, wrk -t1 -c$connections -d${seconds}s, three runs, medians"
    echo "server requests/s cpu-s/1000 spread"
    report bare-poem "$work/bare"
    report look-up "$work/api"
    paste -d' ' <(cut -d' ' -f2 "$work/api" | median) <(cut -d' ' -f2 "$work/bare" | median) | awk '{ printf "ratio of CPU per request: %.2f\n", $1 / $2 }'
} | tee loadtests/lookup.txt
