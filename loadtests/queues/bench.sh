#!/usr/bin/env bash
# Our queue beside apalis-postgres and apalis-redis, on a PostgreSQL (fsync on) and a Redis of its own. The argument is
# the number of rounds. Writes queues.txt.
set -euo pipefail
cd "$(dirname "$0")/../.."

cargo build --quiet --workspace --example stack
cargo build --quiet --release --locked --manifest-path loadtests/queues/Cargo.toml
target=${CARGO_TARGET_DIR:-target}
bench=${CARGO_TARGET_DIR:-loadtests/queues/target}/release/tenantry-queues-bench
STACK_DURABLE=1 "$target/debug/examples/stack" "$bench" "${1:-3}" | tee loadtests/queues/queues.txt
