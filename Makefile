# All make targets of this project; each installs the packages that it needs by itself.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Packages are installed once, and again when pyproject.toml changes.
DEMO := $(VENV)/.installed-demo
DRAWINGS := $(VENV)/.installed-drawings
# A comma would end an argument of a function of make.
DEMO_EXTRAS := demo,milvus-lite
DEV_EXTRAS := demo,drawings,dev
DEV := $(VENV)/.installed-dev
DOCS := $(VENV)/.installed-docs
BENCH := $(VENV)/.installed-bench
# A peer of benchmarks/generation.py, which needs an older transformers.
PEER := .venv-peer/.installed
# A Milvus server for the tests, in an environment of its own.
MILVUS := .venv-milvus/.installed-2.3.5
# ONNX and its runtime for the tests of exported models, in an environment of their own.
EXPORT := .venv-export/.installed
# .venv with what the checks of `make test-sold` need besides.
SOLD := .venv-sold/.installed-next-to-dev
# A plain installation, without torch.
RUNTIME := .venv-runtime/.installed
# The libraries that src/coca/release/adapters adapts to, in an environment of their own.
INTEGRATIONS := .venv-integrations/.installed

# Run of `make demo FROM_SCRATCH=1`: trained on the drawings of a vendor, shown on those of another.
SCRATCH := runs/from-scratch

# A coverage-guided fuzzer, and how long it runs.
FUZZ := .venv-fuzz/.installed
FUZZ_SECONDS := 300
# pip-audit and CycloneDX, apart from the packages that they list.
AUDIT := .venv-audit/.installed
# What a release is installed with, for its list of packages.
SBOM := .venv-sbom/.installed

# Processes of the tests, more than cores: tests that kill and restart servers wait for them.
WORKERS := 3
# The marks outside `make test`; tests/support/processor_time.py sets those of whole folders.
HEAVY := distributed or experimental or export or milvus or service or slow
# Types and shapes of all arguments are checked in tests of single files, and in `make test-all` with
# CHECKED=1 only, as they take a third of the time. It leaves the server to `make test-server`.
QUICKLY := -m 'not milvus or contract' --jaxtyping-packages=
CHECKS := -m 'not milvus'

# The tests of LangChain need these settings of pytest-asyncio.
ASYNC := -o asyncio_mode=auto -o asyncio_default_fixture_loop_scope=function

# The accessibility checker of npm for the tests of the web page.
PAGE := .venv-page/.installed-npm

# TypeScript, which checks the types of the page's scripts, and ESLint.
LINT := .venv-lint/.installed

# Unmodified clients of the service, and schemathesis. Some leave connections open.
UNCLOSED := -W ignore::ResourceWarning -W ignore::pytest.PytestUnraisableExceptionWarning
CLIENTS := .venv-clients/.installed

.DEFAULT_GOAL := help
# Two installations at a time would corrupt the folder that they share.
.NOTPARALLEL:
.PHONY: help demo everyday test test-all test-server test-export test-runtime test-image test-page test-clients test-integrations test-gpu test-docs test-experimental test-lowest test-wheel test-sold test-python lock mutants weekly fuzz audit sbom check check-page format bench docs milvus clean

help: ## List all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

ifdef FROM_SCRATCH
demo: $(DRAWINGS)
	@$(BIN)/python recipes/data/emoji_drawings.py $(SCRATCH)/shards/twemoji --vendor twemoji
	@$(BIN)/python recipes/data/emoji_drawings.py $(SCRATCH)/drawings --vendor openmoji --files
	@$(BIN)/coca pretrain recipes/pretrain/emoji.yaml
	@$(BIN)/coca demo --model $(SCRATCH)/model --images $(SCRATCH)/drawings --folder $(SCRATCH)
else
demo: $(DEMO) ## Index, search and caption photos; IMAGES=FOLDER: your own; URI=: in Milvus; FROM_SCRATCH=1 trains first
	@$(if $(URI),$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(DEMO_EXTRAS)]')
	@$(BIN)/coca demo $(if $(IMAGES),--images "$(IMAGES)") $(if $(URI),--uri "$(URI)")
endif

everyday: $(DRAWINGS) ## Make the default model; PHOTOS=FOLDER: what no package contains; SEED=1: another seed
	$(BIN)/python recipes/data/make_everyday.py --photos "$(PHOTOS)" $(if $(SEED),--seed $(SEED))

test: $(DEV) ## Run the light tests, without those that start services, ranks or exports
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup -m 'not ($(HEAVY))' --jaxtyping-packages= --processor-limit 2

test-all: $(DEV) ## Run all tests; CHECKED=1: with types and shapes of arguments; COVERED=1: with coverage
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup --ignore tests/experimental $(if $(CHECKED),$(CHECKS),$(QUICKLY)) \
		$(if $(COVERED),--cov=coca --cov-report=term)
	$(BIN)/pytest tests/experimental

test-server: $(MILVUS) ## Run all tests of the mark `milvus`, on two Milvus servers (Linux on x86_64)
	$(BIN)/pytest -n 2 --dist loadfile -m milvus --jaxtyping-packages=

test-export: $(EXPORT) ## Export models to ONNX and run them without torch, in .venv-export (minutes)
	OMP_NUM_THREADS=1 .venv-export/bin/python -m pytest tests/release/onnx tests/predict

test-runtime: $(RUNTIME) ## Use the default model in .venv-runtime, a plain installation without torch
	.venv-runtime/bin/python -m pytest tests/predict tests/processing tests/without_torch

test-wheel: $(DEV) ## Build the wheel, install it alone into an empty environment, run five commands and the service
	$(PYTHON) -m venv --clear .venv-wheel
	$(BIN)/python -m hatchling build --target wheel --directory .venv-wheel/dist
	.venv-wheel/bin/python -m pip install --quiet --disable-pip-version-check "$$(ls .venv-wheel/dist/*.whl)[serve]"
	.venv-wheel/bin/python -I tests/installed_wheel.py
	.venv-wheel/bin/python -I tests/promises.py

# Playwright keeps an event loop in its process; token ids need files of tiktoken (`make test-clients`).
test-sold: $(SOLD) ## Run what README sells: the page's main walk, export, both runtimes, openai, commands, extras
	.venv-sold/bin/python -m pytest --jaxtyping-packages= --timeout 1200 tests/page/test_daily.py
	.venv-sold/bin/python -m pytest --jaxtyping-packages= -k 'not token_ids' \
		tests/clients/test_openai.py tests/clients/test_mcp.py tests/house/test_extras.py $(UNCLOSED)
	OMP_NUM_THREADS=1 .venv-sold/bin/python -m pytest --jaxtyping-packages= \
		tests/release/onnx/test_onnx_export.py tests/release/onnx/test_linked_graphs.py
	.venv-sold/bin/python -m pytest --jaxtyping-packages= tests/documented_run.py -q -k README

test-image: $(DEV) ## Run the steps of the Dockerfile in a chroot of Debian, as root (minutes)
	COCA_TEST_IMAGE=1 $(BIN)/pytest tests/house/test_container.py

test-page: $(PAGE) ## Run the tests of the web page in Debian's chromium; they skip without it
	.venv-page/bin/python -m pytest -m page --timeout 1200 tests/page

test-clients: $(CLIENTS) ## Run unmodified clients and schemathesis against the service, in .venv-clients
	.venv-clients/bin/python -m pytest tests/clients $(UNCLOSED)

test-integrations: $(INTEGRATIONS) ## Run the tests of the adapters with the real libraries, in .venv-integrations
	.venv-integrations/bin/python -m pytest tests/release/adapters $(ASYNC) \
		tests/data/storage/test_s3.py tests/experimental/langchain/test_langchain.py \
		tests/workflows/collections/test_image_text_models.py
	.venv-integrations/bin/python -m pytest tests/house/test_docs.py -k plugins.md $(ASYNC)

test-experimental: $(DEV) ## Run the tests of coca.experimental; those whose libraries are missing skip
	$(BIN)/pytest tests/experimental

test-gpu: $(DEV) ## Run the tests of the mark `gpu`; they skip without an accelerator
	$(BIN)/pytest -m gpu

test-docs: $(DEV) ## Run every command of README and docs in a copy of the clone (half an hour)
	$(BIN)/pytest tests/documented_run.py -q

test-lowest: ## Run a small example with the lowest versions that pyproject.toml allows; downloads 3 GB
	$(PYTHON) -m venv --clear .venv-lowest
	$(PYTHON) tests/lowest.py constraints > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint .venv-lowest/constraints.txt --editable '.[data,hub,milvus-lite,report,serve,train,video,vqa]'
	OMP_NUM_THREADS=1 .venv-lowest/bin/python tests/lowest.py smoke
	.venv-lowest/bin/python tests/promises.py

test-python: ## Run the light tests with another Python: make test-python PYTHON=python3.13
	$(PYTHON) -m venv .venv-$(notdir $(PYTHON))
	.venv-$(notdir $(PYTHON))/bin/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[$(DEV_EXTRAS)]'
	.venv-$(notdir $(PYTHON))/bin/pytest -n $(WORKERS) --dist loadgroup -m 'not ($(HEAVY))' --jaxtyping-packages=

lock: ## Write tests/locked.txt, the versions of all packages of `make test`, from a new environment
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[$(DEV_EXTRAS)]'
	@echo '# Versions of all packages of `make test`, written by `make lock`; pyproject.toml has the bounds for users.' > $(LOCK)
	.venv-lock/bin/python -m pip freeze --exclude-editable | sed -E 's/\+[A-Za-z0-9.]+$$//' >> $(LOCK)

mutants: $(DEV) ## Change 120 single points of the source and count those that a test notices (hours, resumable)
	$(BIN)/python tests/mutants.py --report benchmarks/results/mutants.md

weekly: ## Run all targets that .ci/run leaves out, also with other installed Pythons (hours)
	.ci/weekly

fuzz: $(FUZZ) ## Fuzz the readers of images and tars for FUZZ_SECONDS=300; findings are in runs/fuzz
	OMP_NUM_THREADS=1 .venv-fuzz/bin/python tests/fuzz_untrusted.py runs/fuzz -max_total_time=$(FUZZ_SECONDS)

audit: $(AUDIT) $(DEV) ## Report known vulnerabilities of the packages in .venv; reports an unreachable service
	.venv-audit/bin/python scripts/audit.py $(VENV)

sbom: $(AUDIT) $(SBOM) ## Write dist/sbom.cdx.json, a CycloneDX list of the packages of the service
	@mkdir -p dist
	.venv-audit/bin/cyclonedx-py environment --output-reproducible --output-file dist/sbom.cdx.json .venv-sbom

check: $(DEV) ## Check lint, format, types, import layers, spelling and limits of size
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python scripts/package_sizes.py --budget
	@if command -v npm > /dev/null; then $(MAKE) --no-print-directory check-page; \
		else echo "the scripts of the page are not checked: npm is not installed"; fi

check-page: $(LINT) ## Check the types and the lint of the page's scripts; part of `make check`
	.venv-lint/node_modules/.bin/tsc --project scripts/tsconfig.json
	.venv-lint/node_modules/.bin/eslint --config scripts/eslint.config.mjs src/coca/server/page

format: $(DEV) ## Format the code, and apply the automatic fixes of ruff
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(BENCH) $(PEER) ## Run all benchmarks with --quick and write runs/bench/table.md (half an hour)
	$(BIN)/python benchmarks/run_all.py --quick

docs: $(DOCS) ## Write the generated pages, and build the documentation into site/
	$(BIN)/python scripts/docs_pages.py
	$(BIN)/zensical build --clean

milvus: $(MILVUS) ## Install a Milvus server; `make test-all` then runs the mark `contract` on it as well

clean: ## Remove build outputs and caches; runs/ and .venv stay
	rm -rf build dist site .cache htmlcov .coverage .coverage.*
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is missing or older than 3.11; name another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(DEMO): EXTRAS = demo
$(DRAWINGS): EXTRAS = demo,drawings
# The tests run with the versions of one list; other Pythons and the lowest versions have targets of their own.
LOCK := tests/locked.txt
$(DEV): EXTRAS = $(DEV_EXTRAS)
$(DEV): LOCKED = --constraint $(LOCK)
$(DEV): $(LOCK)
$(DOCS): EXTRAS = docs
$(BENCH): EXTRAS = bench,train

$(DEMO) $(DRAWINGS) $(DEV) $(DOCS) $(BENCH): pyproject.toml | $(BIN)/python
	@echo "installing coca-captioners[$(EXTRAS)] into $(VENV); the first time takes some minutes"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(LOCKED) --editable '.[$(EXTRAS)]'
	@touch $@

$(MILVUS): | $(DEV)
	@echo "installing a Milvus server into .venv-milvus; the first time takes a minute"
	@$(PYTHON) -m venv .venv-milvus
	@.venv-milvus/bin/python -m pip install --quiet --disable-pip-version-check milvus==2.3.5
	@$(BIN)/python tests/support/milvus_server.py --unpack
	@touch $@

$(PEER): Makefile | $(BIN)/python
	@echo "installing open_clip_torch and transformers 4 into .venv-peer; the first time takes a minute"
	@$(PYTHON) -m venv .venv-peer
	@.venv-peer/bin/python -m pip install --quiet --disable-pip-version-check \
		open_clip_torch==3.3.0 'transformers<4.50'
	@touch $@

$(AUDIT): Makefile
	@$(PYTHON) -m venv .venv-audit
	@.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check \
		'cyclonedx-bom>=7.5,<8' 'pip-audit>=2.10,<3'
	@touch $@

$(SOLD): pyproject.toml | $(DEV)
	@echo "installing coca-captioners[test-sold] into .venv-sold, next to the packages of $(VENV)"
	@$(PYTHON) -m venv .venv-sold
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' \
		> "$$(.venv-sold/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/next_to.pth"
	@.venv-sold/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test-sold]'
	@touch $@

# An extra `test-NAME` has the packages of the environment .venv-NAME.
.venv-%/.installed: pyproject.toml
	@echo "installing coca-captioners[test-$*] into .venv-$*; the first time takes some minutes"
	@$(PYTHON) -m venv .venv-$*
	@.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test-$*]'
	@touch $@

$(PAGE): .venv-page/.installed Makefile
	@npm install --silent --no-save --no-audit --no-fund --ignore-scripts --prefix .venv-page \
		'axe-core@^4.14'
	@touch $@

$(LINT): Makefile
	@npm install --silent --no-save --no-audit --no-fund --ignore-scripts --prefix .venv-lint \
		'eslint@^10' 'typescript@^7'
	@touch $@
