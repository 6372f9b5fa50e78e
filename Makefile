# Two commands: `make quickstart` and `make test`. Both set up .venv first, and say what they run.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
READY_TEST := .venv/.ready-test
READY_TPU := .venv/.ready-tpu
READY_DOCS := .venv/.ready-docs
W ?= runs/quickstart

# .installing marks an install that was cut off: nothing that it was part of counts as ready.
ifneq ($(wildcard .venv/.installing),)
  $(shell rm -f $(READY) $(READY_TEST) $(READY_TPU) $(READY_DOCS))
endif

# One process a core; who is done takes tests from the others.
WORKERS := -n logical --maxprocesses=8 --dist=worksteal

.PHONY: quickstart test test-slow test-compiled lint docs clean

quickstart: $(READY)
	$(BIN)/bertjax pretrain --config=configs/quickstart.py --workdir=$(W)
	$(BIN)/bertjax evaluate --workdir=$(W)
	$(BIN)/bertjax fill-mask $(W) "This function returns the [MASK] of the list."
	$(BIN)/bertjax cloze $(W)
	$(BIN)/bertjax plot $(W)
	$(BIN)/bertjax finetune --config=configs/quickstart_task.py --workdir=$(W)/task --config.init_from=$(W)
	$(BIN)/bertjax finetune --config=configs/quickstart_task.py:random --workdir=$(W)/task_random --config.init_from=$(W)
	echo "Return the eigenvalues of a symmetric matrix." | $(BIN)/bertjax predict $(W)/task --input=-

test: $(READY_TEST)
	$(BIN)/python -m pytest $(WORKERS) -m "not slow and not tpu_compiler"

test-slow: $(READY_TEST)
	$(BIN)/python -m pytest $(WORKERS) -m "slow and not tpu_compiler"

# Compiles for TPU slices that are not there.
test-compiled: $(READY_TPU)
	BERTJAX_TEST_OPTIMIZED=1 $(BIN)/python -m pytest -m tpu_compiler

lint: $(READY_TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# docs/ as a site in site/: fails at a link that leads nowhere.
docs: $(READY_DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf .venv build site *.egg-info .mypy_cache

# An environment whose install was cut off is made anew, and so is one whose pip does not run. A
# working environment that somebody made by hand is kept.
$(READY): setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "bertjax needs Python 3.11 or later; say which: make PYTHON=python3.12 ..."; exit 1; }
	@if [ -e .venv/.installing ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  echo '$(PYTHON) -m venv --clear .venv'; $(PYTHON) -m venv --clear .venv; fi
	@touch .venv/.installing
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	@rm .venv/.installing && touch $(READY)

# PyTorch, transformers and ONNX, which conversions are held against: not for training.
$(READY_TEST): $(READY)
	@touch .venv/.installing
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@rm .venv/.installing && touch $(READY_TEST)

# The TPU's compiler, libtpu: no TPU is needed.
$(READY_TPU): $(READY_TEST)
	@touch .venv/.installing
	$(BIN)/python -m pip install --quiet --editable '.[tpu]'
	@rm .venv/.installing && touch $(READY_TPU)

$(READY_DOCS): $(READY)
	@touch .venv/.installing
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@rm .venv/.installing && touch $(READY_DOCS)
