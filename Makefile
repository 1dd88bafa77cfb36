# One environment, .venv, serves every target. `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= $(firstword $(foreach version,3.11 3.12 3.13,$(shell command -v python$(version))) python3)
BIN := .venv/bin
STAMP := .venv/installed
PEERS := .venv-peers
WORKERS ?= 2
PYTEST_FLAGS ?=
FAULTS ?=
DEMO := demo

# Of `make bench`: the model, levels of the recipes that are calibrated once and kept (or recipes that are there), and the
# text whose second half perplexity is measured on; without one it is the model's own answers.
MODEL ?= smollm2
LEVELS ?= 0.25
ROUNDS ?= 3
MEASURED := runs/bench
RECIPES ?= $(LEVELS:%=$(MEASURED)/$(MODEL)-%)
TEXT ?=
OTHER ?=
ONLY ?=
COMMA := ,
OURS := engine:bf16 engine:q8 engine:file
OTHERS := transformers:f32 transformers:bf16 $(if $(wildcard $(PEERS)),llama.cpp:bf16 llama.cpp:q8_0 \
  llama.cpp:file ik_llama.cpp:q8_0+rtr ik_llama.cpp:file ik_llama.cpp:file+ub16 onnxruntime-genai:q8_0 \
  openvino-genai:q8_0)

.PHONY: help env demo test test-slow test-pythons lint format wheel try-wheel bench bench-peers sparse-model docs pages results reliability clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(STAMP)  ## make .venv with everything and get the built-in model smollm2
	@$(BIN)/sparseact fetch smollm2

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is older than Python 3.11; give another with: make env PYTHON=..." >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev,docs]'
	@touch $@

demo: env  ## run a small real sweep and say where its page is
	$(BIN)/sparseact sweep --metrics corrected-gxo,gxo,magnitude,random --units mlp --sparsity 0.5,0.7,0.8,0.9 \
	  --limit 12 --max-new-tokens 16 --out $(DEMO)
	@echo
	@echo "$(DEMO)/report.html  the page: quality against sparsity per metric, attribution by layer, texts side by side"
	@echo "$(DEMO)/curve.png    the picture: agreement with the dense model's own tokens against achieved sparsity"
	@echo "What they show: the attribution scores (corrected-gxo, gxo) keep more of the dense model's tokens than"
	@echo "magnitude does, and they have seen those tokens: the leakage plot beside the curves says what that is worth."

test: env  ## run the whole default test suite
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) $(PYTEST_FLAGS)

test-slow: env  ## run the tests that take minutes
	$(BIN)/pytest -m slow --timeout 1800

test-pythons: env  ## run what needs no torch on the newer Pythons, those that are here
	PYENV_VERSION="$$(pyenv versions --bare 2>/dev/null | paste -sd:)" $(BIN)/nox -s light-3.12 light-3.13

lint: env  ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

wheel: $(STAMP)  ## build the wheel and the sdist in dist/
	rm -rf dist
	$(BIN)/python -m build --quiet

try-wheel: wheel env  ## install the wheel where nothing else is, alone and with torch, and use it
	$(BIN)/python scripts/try_wheel.py

format: $(STAMP)  ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: env $(RECIPES:%=%/recipe.json)  ## measure attribution and the engine against their bounds (about 10 minutes)
	$(BIN)/python benchmarks/attribution.py
	rm -f $(MEASURED)/$(MODEL).jsonl
	$(BIN)/python benchmarks/decode.py --model $(MODEL) $(if $(TEXT),--text $(TEXT)) --runners $(OTHERS) $(OURS) \
	  --recipes $(RECIPES) --rounds $(ROUNDS) --context 320 --tokens 48 --out $(MEASURED)/$(MODEL).jsonl
	$(BIN)/python benchmarks/bounds.py $(MEASURED)/$(MODEL).jsonl --disturbed --exact

$(MEASURED)/$(MODEL)-%/recipe.json: | $(STAMP)
	$(BIN)/sparseact calibrate --model $(MODEL) --sparsity $* --out $(@D)

# One by one, so that what cannot be had here stops none of the others; the same again tries only what failed.
# CMAKE_BUILD_PARALLEL_LEVEL=1 where memory is short or others work here too.
bench-peers: $(PEERS)/installed  ## get the engines to measure beside ours in .venv-peers, two built from source (long)

$(PEERS)/installed: benchmarks/peers.txt constraints.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@failed=; for package in $$(grep '^[a-z]' $<); do \
	  echo "$$package"; \
	  CMAKE_ARGS='-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DCMAKE_INSTALL_RPATH=$$ORIGIN' \
	    $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	    --no-binary llama-cpp-python "$$package" || failed="$$failed $$package"; \
	done; \
	benchmarks/build_ik_llama.sh $(PEERS)/bin/python $$(sed -n 's/^ik-llama-cpp-python==//p' $<) \
	  || failed="$$failed ik_llama.cpp's-libraries"; \
	test -z "$$failed" || { echo "not installed:$$failed; the others are" >&2; exit 1; }
	@touch $@

docs: env pages  ## build the documentation in docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

pages: $(STAMP)  ## write what the documentation takes from the code: help pages, tables, the picture of the architecture
	$(BIN)/python scripts/help_pages.py
	$(BIN)/python scripts/docs_tables.py
	$(BIN)/python scripts/architecture_picture.py

sparse-model: env  ## train the sparse model of docs/results/sparse-that-pays.md (hours; goes on where it was stopped; TOKENS=20000)
	$(BIN)/sparseact train --method leading-bits --sparsity 0.67 --text $(if $(TEXT),$(TEXT)$(COMMA))own \
	  --tokens $(if $(TOKENS),$(TOKENS),400000) --out runs/sparse-model

results: $(STAMP)  ## list what is measured for docs/results; ONLY=NAME remakes one (TEXT=FILE and OTHER=FILE where it reads texts)
	@$(BIN)/python benchmarks/results.py $(if $(ONLY),--only $(ONLY)) $(if $(TEXT),--text $(TEXT)) $(if $(OTHER),--other $(OTHER))

reliability: env  ## count the faults that are survived, and write docs/reliability.md's table (minutes; FAULTS="--count 100 --only bad-inputs")
	$(BIN)/python benchmarks/reliability.py --out docs/results/reliability.jsonl --page docs/reliability.md $(FAULTS)

clean:  ## remove what the targets made, except .venv
	rm -rf $(DEMO) dist docs/_build docs/methods/*/ docs/reference .nox .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
