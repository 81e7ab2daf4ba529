# make train: set up, train on the embedded corpus, sample, evaluate, compress with the model.
# make test:  set up, lint, type-check and test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PRESET ?= spacebyte_tiny

# Huge pages spare XLA on CPU many page faults; they must be asked for before the process starts.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: train test test-tpu test-buckets lint clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "error: install the package python3-venv, or name another Python: make PYTHON=..."; exit 1; }
	PYTHONDONTWRITEBYTECODE= $(BIN)/pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	touch $@

train: $(VENV)/installed
	$(BIN)/python train.py $(PRESET) --report

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --durations=15

$(VENV)-tpu/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-tpu
	PYTHONDONTWRITEBYTECODE= $(VENV)-tpu/bin/pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev,tpu]'
	touch $@

test-tpu: $(VENV)-tpu/installed
	JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 $(VENV)-tpu/bin/python -m pytest -q -m tpu

$(VENV)-buckets/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-buckets
	PYTHONDONTWRITEBYTECODE= $(VENV)-buckets/bin/pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev,buckets]' 'moto[s3,server]>=5'
	touch $@

test-buckets: $(VENV)-buckets/installed
	$(VENV)-buckets/bin/python -m pytest -q -m buckets

clean:
	rm -rf $(VENV) $(VENV)-tpu .pytest_cache .mypy_cache .ruff_cache
