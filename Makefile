# The steps of a run, and the chores of the project. `make help` lists both.

## directory of the run: all files of one experiment
RUN := runs/cdiscount
## its configuration
CONFIG := configs/cdiscount.yaml
## the dump to ingest; for score, the dump to sort (default there: data/test.bson); several files or patterns with blanks between
BSON := data/train.bson
## names of the categories, in hierarchy order
CATEGORIES := data/category_names.csv
## where score writes
OUT := $(RUN)/predictions
## where bench writes its figures; FIGURES=docs/results renews those that docs/results.md is rendered from
FIGURES := build/bench
## overrides of the configuration, separated by blanks: SET='stage1.lr=3e-4 seed=1'
SET :=
## the Python to make .venv with; by default the newest of 3.13, 3.12, 3.11 that works
PYTHON ?=

SHELFSORT := .venv/bin/shelfsort
SETS = $(foreach pair,$(SET),--set '$(pair)')
# A path as one word for the shell, whatever it holds.
quoted = '$(subst ','\'',$(1))'
OPTIONS = --run $(call quoted,$(RUN)) --config $(call quoted,$(CONFIG)) $(SETS)
# BSON that names nothing as a whole is several words, which may have quotes of their own.
DUMPS = $(if $(shell test -e $(call quoted,$(BSON)) && echo yes),$(call quoted,$(BSON)),$(BSON))

.PHONY: help setup demo ingest stage1 features stage2 evaluate report score test test-bf16 test-slow test-mutants lint bench doctor clean remake

help: ## this list
	@echo "make TARGET [VARIABLE=value ...]"; echo
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile; echo
	@awk -F ' *[:?]= *' '/^## / { text = substr($$0, 4); next } \
		text { printf "  %-12s %s%s\n", $$1, text, $$2 == "" ? "" : " [" $$2 "]"; text = "" }' Makefile

setup: .venv/.current ## install everything into .venv; does nothing when that is current
	@:

# A .venv is kept while its interpreter works and is the one asked for, and the tree has not moved (scripts in .venv hold
# absolute paths): then .current, written after a whole installation, says what the interpreter says.
identity := import os, sys; print(os.getcwd(), "Python %d.%d" % sys.version_info[:2])
recorded := $(shell cat .venv/.current 2>/dev/null)
found := $(shell .venv/bin/python -c '$(identity)' 2>/dev/null)
asked := $(if $(PYTHON),$(shell $(PYTHON) -c '$(identity)'),$(found))
ifeq ($(recorded),$(found))
ifeq ($(asked),$(found))
sound := $(found)
endif
endif

# Each candidate is run, not only looked up: version managers put names on the PATH that lead nowhere.
candidates = $(or $(PYTHON),python3.13 python3.12 python3.11 python3)
define make_venv
@for python in $(candidates); do \
	if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "making .venv with $$(command -v "$$python"); the packages take 7 GB"; \
		"$$python" -m venv --clear .venv; exit; \
	fi; \
done; \
echo "error: no Python 3.11 or later, with venv, among: $(candidates); name one: make setup PYTHON=/path/to/python3" >&2; \
exit 1
endef

.venv/.current: setup.cfg pyproject.toml constraints.txt $(if $(sound),,remake)
	$(if $(sound),,$(make_venv))
	.venv/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev,export,openvino,cluster,similar,ocr,offline]'
	@.venv/bin/python -c '$(identity)' > $@

demo: setup ## all steps on a small synthetic catalogue, in runs/demo
	$(SHELFSORT) demo --run runs/demo $(SETS)

# Each step asks for the one before; a step with nothing to do says "current" and ends within seconds.
ingest: setup ## dump -> store.sqlite: categories, products, images, splits
	$(SHELFSORT) ingest $(OPTIONS) --dump $(DUMPS) --categories $(call quoted,$(CATEGORIES))

stage1: ingest ## train the CNN
	$(SHELFSORT) stage1 $(OPTIONS)

features: stage1 ## cache the CNN's bottleneck features
	$(SHELFSORT) features $(OPTIONS)

stage2: features ## fit the pool of experts, and reclassifiers of confusable categories
	$(SHELFSORT) stage2 $(OPTIONS)

evaluate: stage2 ## measure on the test split
	$(SHELFSORT) evaluate $(OPTIONS)

report: evaluate ## the analysts' report, RUN/report/index.html
	$(SHELFSORT) report --run $(call quoted,$(RUN))

score: BSON := data/test.bson
# The run is not made on the way: score's BSON is not the dump that the run is made from.
score: setup ## sort the products of BSON with a finished run
	@run=$(call quoted,$(RUN)); test -f "$$run/stage2/manifest.json" || \
		{ echo "error: $$run/stage2/manifest.json: no such file; make it first with: make stage2 RUN='$$run'" >&2; exit 1; }
	$(SHELFSORT) score $(DUMPS) --run $(call quoted,$(RUN)) --out $(call quoted,$(OUT)) $(SETS)

# Two processes of one thread each, since most of a test is one thread's work; a setting of the caller's wins.
PYTEST = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} .venv/bin/python -m pytest -q -n 2 --dist loadfile --durations=15
test: setup ## all quick tests
	$(PYTEST)

test-bf16: setup ## all quick tests, with stage 1 trained in bf16 whatever the processor has
	SHELFSORT_TEST_PRECISION=bf16 $(PYTEST)

test-mutants: setup ## how many small changes of core modules their tests notice
	$(PYTEST) -m mutants --dist load

test-slow: setup ## the tests that need minutes, then test-bf16
	$(PYTEST) -m "slow and not mutants"; slow=$$?; $(MAKE) test-bf16 && exit $$slow

lint: setup ## ruff, types, who may import whom, and the report's scripts
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	@if command -v prettier >/dev/null && command -v eslint >/dev/null; then \
		prettier --check pipeline/report/templates/*.js pipeline/report/templates/*.css && \
		cat pipeline/report/templates/*.js | eslint --stdin --stdin-filename report.js; \
	else echo "the report's scripts are not checked: prettier or eslint is missing (npm install --global prettier eslint)"; fi

BENCHMARKS = $(filter-out agreement catalogue columns corrections last_fit new_category paired photos promises record render run_results stage2_rows,$(basename $(notdir $(wildcard benchmarks/*.py))))
bench: setup ## every benchmark that needs no run, one after the other; the figures as JSON too, in FIGURES
	@for name in $(BENCHMARKS); do echo "== $$name"; \
		.venv/bin/python -m benchmarks.$$name --json $(call quoted,$(FIGURES))/$$name.json || exit 1; done

doctor: setup ## check this machine and its packages
	$(SHELFSORT) doctor

clean: ## remove the demo run and all caches; .venv and other runs stay
	rm -rf runs/demo build dist shelfsort.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
