# Everything a developer does here. GNU make 3.81 or newer; nothing to install by hand but Python 3.11 with venv.
# Paths are relative, so a checkout may live anywhere. Settings of the stack: .env.example.
PYTHON ?= python3
PY := .venv/bin/python
# The number of test processes, and the tests to run: make test T=tests/unit/test_text.py
N ?= 2
T ?= tests
COVERAGE = $(if $(COV),--cov --cov-report=term --cov-fail-under=90)

.PHONY: help setup matrix run test test-all serve worker env stop reset lint format schema openapi types events advisors drift check lock bench bench-realtime bench-load soak chaos bench-sql

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

run: setup ## Start Postgres, the data API, Auth, Storage and the service; Ctrl-C stops all of it
	@exec $(PY) -m stack run

test: setup ## Run the core tests (T=path for one file, N=processes, COV=1 for coverage of app/)
	@$(PY) -m pytest -n $(N) -m "not slow" $(COVERAGE) $(T)

test-all: setup ## Run every test
	@$(PY) -m pytest -n $(N) $(COVERAGE) $(T)

# The Postgres of npm, and every Debian one that is installed; both ways of signing tokens.
MATRIX_BINS ?= npm $(wildcard /usr/lib/postgresql/1[5-9]/bin)
matrix: setup ## Run the core tests on every Postgres here, with HS256 and ES256 tokens
	@for bin in $(MATRIX_BINS); do for algorithm in HS256 ES256; do \
	  echo "== Postgres: $$bin, tokens: $$algorithm"; \
	  STACK_POSTGRES_BIN=$${bin#npm} STACK_JWT_ALG=$$algorithm $(PY) -m pytest -n $(N) -q -m "not slow" $(T) || exit 1; \
	done; done

serve: setup ## Run only the service, against the project in SUPABASE_URL
	@exec $(PY) -m stack serve

worker: setup ## Run only the worker, which takes messages to the classifier in CLASSIFIER_URL (docs/classifier.md)
	@exec $(PY) -m app.worker

env: setup ## Print NAME=value lines for clients of the stack
	@$(PY) -m stack env

stop: setup ## Stop the running stack of this checkout
	@$(PY) -m stack stop

reset: setup ## Stop the stack and forget its data and keys
	@$(PY) -m stack reset

lint: setup ## Check style and types of Python and SQL, types of TypeScript
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(PY) -m sqlfluff lint supabase
	@.venv/bin/node clients/typescript/node_modules/typescript/bin/tsc -p clients/typescript

format: setup ## Rewrite Python in the house's format
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

schema: setup ## Write supabase/schema.sql, the schema after all migrations
	@$(PY) -m stack schema

openapi: setup ## Write docs/openapi.json and the generated tables docs/errors.md and docs/settings.md
	@for d in openapi.json errors.md settings.md; do $(PY) -m app $${d%.*} > docs/$$d || exit 1; done

types: setup ## Write what the TypeScript client, docs/web.md and docs/realtime.md take from the OpenAPI document and the code
	@$(PY) -m clients.generate

events: setup ## Write the example events of docs/realtime.md anew, as the database sends them
	@WRITE_EXAMPLES=1 $(PY) -m pytest -q -n 0 tests/sql/test_event_examples.py
	@$(PY) -m clients.generate

advisors: setup ## Run the Supabase CLI's security and performance advisors and its linter
	@$(PY) -m stack advisors

drift: setup ## Fail when a generated file (schema, OpenAPI, errors, settings, types) is out of date
	@$(PY) -m stack schema --check
	@for d in openapi.json errors.md settings.md; do \
	  $(PY) -m app $${d%.*} | diff -u docs/$$d - || { echo "docs/$$d is out of date: make openapi" >&2; exit 1; }; \
	done
	@$(PY) -m clients.generate --check

# PEERS=ours,constant leaves out what has to be installed; ROUNDS, SECONDS and PAIRS make it shorter or longer.
bench: setup ## Measure send, inbox and history beside Litestar's floor, Next.js and FastAPI, and what we add
	@$(PY) -m bench.http $(if $(PEERS),--peers $(PEERS)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	  $(if $(SECONDS),--seconds $(SECONDS)) $(if $(PAIRS),--pairs $(PAIRS))

bench-sql: setup ## Measure every SQL function as data grows (20 minutes; SIZES=10k: one)
	@$(PY) -m bench.sql $(if $(SIZES),--sizes $(SIZES))

bench-realtime: setup ## Measure from commit to subscriber, and from a send to the other screen
	@$(PY) -m bench.realtime

bench-load: setup ## Measure the peak of the whole stack, five times that load, and recovery (SECONDS=30 of storm)
	@$(PY) -m bench.load --seconds $(or $(SECONDS),30)

soak: setup ## Half of the peak with bursts for MINUTES=10: memory, open files and answers must stay as they are
	@$(PY) -m bench.soak --minutes $(or $(MINUTES),10)

CHAOS ?=
chaos: setup ## Kill, stop, cut off and slow the parts while people send; check everything (CHAOS="--seed 1 --sends 2000")
	@$(PY) -m chaos $(CHAOS)

check: lint drift advisors test ## Everything a change must pass (COV=1 as in CI)

lock: setup ## Resolve the Python dependencies anew into requirements.lock, and those of the bench's FastAPI
	@$(PY) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	  --group dev -o requirements.lock pyproject.toml
	@$(PY) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	  --group pyproject.toml:bench -o bench/peers/requirements.lock

# A finished .venv is looked after by its own Python; PYTHON is only needed to make it.
setup: ## Install everything into .venv and node_modules (done by the other targets when needed)
	@python="$(PYTHON)"; \
	if [ -x .venv/bin/python ] && [ ! -e .local/venv.unfinished ]; then python=.venv/bin/python; fi; \
	if ! command -v "$$python" >/dev/null 2>&1; then \
	  echo "Python 3.11 or newer is needed, and there is no '$$python' on the PATH." >&2; exit 1; fi; \
	if ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  echo "Python 3.11 or newer is needed, and '$$python' is older; name another: make run PYTHON=python3.12" >&2; exit 1; fi; \
	exec "$$python" -B -m stack.setup
