# Everything runs in .venv, which each target makes when it is missing or older than what it is made from.
# Another interpreter: make venv PYTHON=python3.12

PYTHON ?=
PY := .venv/bin/python
OUTPUT ?= runs/quickstart
TESTS ?= tests
COMPAT_TESTS ?= tests/modeling tests/pipelines tests/clients tests/metrics/test_likelihood.py tests/metrics/test_nll.py \
	tests/metrics/test_corpus_likelihood.py tests/training/test_train.py tests/training/test_train_resuming.py \
	tests/training/test_train_refusals.py \
	tests/test_convert.py tests/test_hub.py tests/test_import.py tests/test_private_parts.py

# One thread: on machines with few or shared cores, several threads are many times slower on small models.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-slow test-compat lint format venv build/typed benchmark checkpoint-code clean

help:  ## show this list
	@awk -F ':[^#]*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: .venv/.installed  ## write stories with the shipped pair and compare the two arms (OUTPUT=runs/quickstart)
	.venv/bin/arche-mdlm compare --output $(OUTPUT)

test: lint .venv/.clients  ## lint, check the format and run the tests (TESTS=tests/test_hub.py for some of them)
	$(TEST_ENV) $(PY) -m pytest -m "not long" $(TESTS)

test-slow: .venv/.clients  ## the tests that take longest, which `make test` leaves out (TESTS as above)
	$(TEST_ENV) $(PY) -m pytest -m long $(TESTS)

test-compat: .venv-oldest/.installed .venv-newest/.installed  ## models and tools on the oldest and newest versions (10 GB, half an hour)
	$(TEST_ENV) .venv-oldest/bin/python -m pytest $(COMPAT_TESTS)
	$(TEST_ENV) .venv-newest/bin/python -m pytest $(COMPAT_TESTS)

lint: .venv/.installed build/typed  ## ruff's checks and its format, and mypy, without changing a file
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: .venv/.installed  ## let ruff mend and format the code
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

venv: .venv/.installed build/typed  ## make .venv with the versions of constraints.txt

# arche_mdlm as type checkers and editors look for it: links to the files of modeling_mdlm/ and to the other packages' folders.
build/typed:
	@rm -rf $@
	@mkdir -p $@/arche_mdlm
	@ln -s $(patsubst %,../../../%,$(wildcard modeling_mdlm/*.py modeling_mdlm/py.typed)) $@/arche_mdlm/
	@ln -s $(patsubst %,../../../%,$(shell sed -n 's/^ *"arche_mdlm\.[a-z]*": "\([a-z]*\)",.*/\1/p' setup.py)) $@/arche_mdlm/

benchmark: .venv/.installed  ## measure the speed of training and sampling
	$(PY) -m benchmarks

checkpoint-code:  ## copy modeling_mdlm/ into the shipped checkpoints that carry their own code
	@for folder in $(dir $(wildcard checkpoints/*/modeling_mdlm.py)); do \
		rm -f $$folder*_mdlm.py; \
		cp modeling_mdlm/*_mdlm.py $$folder; \
	done

clean:  ## remove the environment, caches and build folders; runs/ is kept
	rm -rf .venv .venv-oldest .venv-newest .pytest_cache .ruff_cache .mypy_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A name on PATH may be a shim for a Python that is not there, or lack `ensurepip` (Debian's python3-venv): each is tried.
.venv/.installed: setup.py pyproject.toml constraints.txt
	@check='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))'; \
	for python in $(or $(PYTHON),python3.13 python3.12 python3.11 python3.10 python3); do \
		if "$$python" -c "$$check" >/dev/null 2>&1; then found="$$python"; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
		echo "error: no Python 3.10 or newer with the venv module was found" \
			"(tried: $(or $(PYTHON),python3.13 python3.12 python3.11 python3.10 python3))." >&2; \
		echo "Install one (Debian, Ubuntu: apt install python3-venv) or name it: make PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi; \
	echo "Making .venv with $$("$$found" --version); the first time, the packages take a few minutes."; \
	"$$found" -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --editable ".[dev]" --constraint constraints.txt
	@touch $@

# What only tests of other people's tools need: lm-eval with its 20 packages; torchao, aside because it talks at every import of transformers; OpenAI's
# client, aside because it is 30 MB; and transformers' own tests of the installed version, from its sdist.
.venv/.clients: .venv/.installed
	rm -rf .venv/clients .venv/openai .venv/transformers-tests
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable ".[eval]" --constraint constraints.txt \
		|| echo "lm-eval cannot be had here: its tests are skipped"
	@$(PY) -m pip install --quiet --disable-pip-version-check --target .venv/clients --no-deps --constraint constraints.txt torchao \
		|| echo "torchao cannot be had here: its test is skipped"
	@$(PY) -m pip install --quiet --disable-pip-version-check --target .venv/openai --no-deps --constraint constraints.txt \
		openai jiter sniffio || echo "OpenAI's client cannot be had here: its tests are skipped"
	@version=$$($(PY) -c 'import transformers; print(transformers.__version__)'); \
	tests=.venv/transformers-tests/$$version; mkdir -p $$tests; \
	$(PY) -m pip download --quiet --disable-pip-version-check --no-deps --no-binary transformers --dest $$tests transformers==$$version \
	&& tar xzf $$tests/transformers-$$version.tar.gz --strip-components=1 -C $$tests transformers-$$version/tests \
	&& rm $$tests/transformers-$$version.tar.gz \
	|| echo "the sdist of transformers $$version cannot be had here: its common tests are skipped"
	@touch $@

# The lowest versions that setup.py allows, each exactly; and the newest that pip finds.
.venv-oldest/.installed: .venv/.installed tests/floors.py
	$(PY) -m venv --clear .venv-oldest
	$(PY) tests/floors.py > .venv-oldest/floors.txt
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]" --constraint .venv-oldest/floors.txt
	@touch $@

.venv-newest/.installed: .venv/.installed
	$(PY) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --editable ".[dev]"
	@touch $@
