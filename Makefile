# The two commands are `make dev` and `make test`; both install what is missing first.

.DEFAULT_GOAL := help
# Everything of the list: no target is a file.
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*\#\#.*/\1/p' Makefile)

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1:/p' Makefile | awk -F: '{ printf "  make %-17s%s\n", $$1, $$2 }'

dev: ## everything in one process, on a private PostgreSQL and Redis (ARGS=--fresh starts over)
	@scripts/setup dev && exec cargo run -- dev $(ARGS)

test: ## every check and every test, on servers of its own
	@scripts/test

lint: ## formatting, clippy, and the linters of the OpenAPI document
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --workspace --example tenantry-planted --features tenantry/planted -- -D warnings
	scripts/clients
	scripts/document

audit: ## known vulnerabilities in the dependencies (needs the network and cargo-deny)
	@command -v cargo-deny >/dev/null || { echo 'missing: cargo-deny; run: cargo install cargo-deny --locked' >&2; exit 1; }
	cargo deny check

openapi: ## writes openapi/openapi.json anew
	cargo run --quiet -- openapi >openapi/openapi.json.new
	mv openapi/openapi.json.new openapi/openapi.json

sdk: ## clients of TypeScript, Python and Rust out of the OpenAPI document, into openapi/build/
	scripts/clients
	scripts/sdk

load: ## requests of many kinds at constant rates, with thresholds; a page in target/load.html (release build; ARGS="--seconds 30")
	scripts/clients load
	cargo build --release --workspace --bin tenantry --example load
	target/release/examples/load suite --seconds 5 --report loadtests/suite.txt --readme README.md --page target/load.html $(ARGS)

bench: ## look-ups by level beside a bare server (release build; needs wrk)
	cargo build --release --workspace --bin tenantry --example bare --example load
	target/release/examples/load lookup --report loadtests/lookup.txt $(ARGS)

load-instructions: ## what a look-up costs in instructions beside a bare server (release build; needs wrk and valgrind)
	cargo build --release --workspace --bin tenantry --example bare --example load
	target/release/examples/load instructions --rounds 1 --connections 8 --report loadtests/instructions.txt $(ARGS)

flame: ## where the processor time of a look-up goes: flame graphs in docs/plots/, a table (release build; needs wrk and perf)
	scripts/clients flame
	cargo build --release --workspace --bin tenantry --example bare --example load
	target/release/examples/load flame --seconds 10 --report loadtests/flame.txt --plots docs/plots $(ARGS)

load-large: ## look-ups with a million users beside a thousand (the same)
	cargo build --release --workspace --bin tenantry --example bare --example load
	target/release/examples/load scale --report loadtests/scale.txt $(ARGS)

bench-enumeration: ## whether the time of an answer tells who exists (release build; ARGS="--pairs 100")
	cargo build --release --workspace --bin tenantry --example load
	target/release/examples/load enumeration --report loadtests/enumeration.txt $(ARGS)

load-auth: ## signing in, look-ups beside a flood of it, tokens and row-level security (release build; needs wrk)
	cargo build --release --workspace --bin tenantry --example load
	target/release/examples/load auth --report loadtests/auth.txt $(ARGS)

load-bulk: ## a thousand users in one request and one by one (release build)
	cargo build --release --workspace --bin tenantry --example load
	target/release/examples/load bulk --report loadtests/bulk.txt $(ARGS)

load-import: ## a hundred thousand users out of a file (release build; ARGS="--users 10000")
	cargo build --release --workspace --bin tenantry --example load
	target/release/examples/load import --report loadtests/import.txt $(ARGS)

load-lists: ## lists and searches of a thousand users and of a million in one tenant (release build; ARGS="--users 100000")
	cargo build --release --workspace --bin tenantry --example load
	target/release/examples/load lists --seconds 2 --report loadtests/lists.txt $(ARGS)

load-stats: ## figures of a thousand users and of a million in one tenant (release build; ARGS="--users 100000")
	cargo build --release --workspace --bin tenantry --example load
	target/release/examples/load stats --seconds 2 --report loadtests/stats.txt $(ARGS)

load-export: ## exports of a thousand users and of a hundred thousand: users a second, memory (release build; ARGS="--users 1000000")
	cargo build --release --workspace --bin tenantry --example load
	target/release/examples/load export --report loadtests/export.txt $(ARGS)

load-limits: ## what limits of requests cost, and how many decisions Redis makes (release build; needs wrk)
	cargo build --release --workspace --bin tenantry --example load
	target/release/examples/load limits --seconds 4 --report loadtests/limits.txt $(ARGS)

load-growth: ## look-ups of 1,000 users and of up to a million, by 1, 2 and 4 processes (release build; ARGS="--users 100000")
	cargo build --release --workspace --bin tenantry --example load
	target/release/examples/load growth --seconds 5 --report loadtests/growth.txt --plots docs/plots $(ARGS)

load-writes: ## the cold path and changes: round trips, processor time, log, times of answers (release build; ARGS="--rounds 1")
	cargo build --release --workspace --bin tenantry --example load
	target/release/examples/load writes --seconds 4 --report loadtests/writes.txt $(ARGS)

soak: ## memory with 100,000 users cached, and over half an hour under load (release build; ARGS="--seconds 60")
	cargo build --release --workspace --bin tenantry --example load
	target/release/examples/load soak --seconds 1800 --rounds 1 --report loadtests/soak.txt --plots docs/plots $(ARGS)

load-stripe: ## the storm twice, webhooks at 200 a second, a backfill (release build; writes loadtests/stripe.txt)
	cargo build --release --workspace --bin tenantry --example stripe-storm
	target/release/examples/stripe-storm --runs 2 --measure --report loadtests/stripe.txt $(ARGS)

chaos: ## kills, stops and cuts off what runs for a minute, and judges every answer (ARGS="--seed 1")
	@scripts/chaos --seconds 60 $(ARGS)

planted: ## bugs in the real code that the history checker must find, each in five runs (ARGS="--runs 1")
	@scripts/chaos --planted all $(ARGS)

model: ## explores the model of the cache protocol within larger bounds (release build; takes minutes and several GB)
	MODEL=large cargo test --release -p tenantry-cache --test model -- --nocapture --test-threads=1

revocations: ## how long three processes let a revoked token in (release build; writes loadtests/revocations.txt)
	cargo build --release --workspace --bin tenantry --example revocations
	target/release/examples/revocations --report loadtests/revocations.txt $(ARGS)

storm: ## 10,000 events of 500 subscriptions, shuffled, doubled and lost, on workers that are killed (ARGS="--seed 1 --measure")
	cargo build --workspace --bin tenantry --example stripe-storm
	$${CARGO_TARGET_DIR:-target}/debug/examples/stripe-storm $(ARGS)

chaos-service: ## deployments, kills, a database that falls, clocks that step, crowds, a full disk (as root; ARGS="--only restart")
	cargo build --workspace --bin tenantry --example faults
	$${CARGO_TARGET_DIR:-target}/debug/examples/faults --report docs/faults.txt $(ARGS)

promises: ## all that measures promises, one after the other on one release build, each into its own file (ARGS="auth faults" for some)
	@scripts/promises $(ARGS)

upgrade: ## replaces an older program by this one under load: schema, then processes (OLD=<commit or tag>)
	@scripts/upgrade $(OLD) $(ARGS)

chaos-jobs: ## 70,000 jobs on workers that are killed and frozen, and judges what came of each (ARGS="--seed 1")
	cargo run --example jobs-chaos -- $(ARGS)

bench-jobs: ## the queue beside apalis-postgres and apalis-redis (release build; writes loadtests/queues/queues.txt)
	loadtests/queues/bench.sh $(ARGS)

fuzz: ## every parser against its laws for a minute each, then schemathesis for ten (needs cargo-fuzz; ARGS="--seconds 600")
	@scripts/fuzz $(ARGS)

clean: ## removes what was built, and the private servers' data
	cargo clean
	rm -rf .tenantry
