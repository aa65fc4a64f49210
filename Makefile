# The two commands are `make dev` and `make test`; both install what is missing first.

.DEFAULT_GOAL := help
.PHONY: help dev test lint audit openapi load chaos chaos-jobs bench-jobs clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1:/p' Makefile | awk -F: '{ printf "  make %-11s%s\n", $$1, $$2 }'

dev: ## everything in one process, on a private PostgreSQL and Redis (ARGS=--fresh starts over)
	@scripts/setup dev && exec cargo run -- dev $(ARGS)

test: ## every check and every test, on servers of its own
	@scripts/test

lint: ## formatting and clippy
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

audit: ## known vulnerabilities in the dependencies (needs the network and cargo-deny)
	@command -v cargo-deny >/dev/null || { echo 'missing: cargo-deny; run: cargo install cargo-deny --locked' >&2; exit 1; }
	cargo deny check

openapi: ## writes openapi/openapi.json anew
	cargo run --quiet -- openapi >openapi/openapi.json.new
	mv openapi/openapi.json.new openapi/openapi.json

load: ## a cached look-up beside a bare server (release build; needs wrk)
	loadtests/lookup.sh

chaos: ## kills, freezes and empties what runs for a minute, and judges every answer (ARGS="--seed 1")
	cargo build --bin tenantry
	cargo run --example chaos -- --seconds 60 $(ARGS)

chaos-jobs: ## 70,000 jobs on workers that are killed and frozen, and judges what came of each (ARGS="--seed 1")
	cargo run --example jobs-chaos -- $(ARGS)

bench-jobs: ## the queue beside apalis-postgres and apalis-redis (release build; writes loadtests/queues/queues.txt)
	loadtests/queues/bench.sh $(ARGS)

clean: ## removes what was built, and the private servers' data
	cargo clean
	rm -rf .tenantry
