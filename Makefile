# Everything runs in a virtual environment that the first target makes; see README.md for the plain pip lines.
PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python
RUN ?= runs/digits

.PHONY: demo test slow interpret check format bench bench-full docs clean

demo: $(VENV)/ready
	$(PY) examples/aeotgan/run.py --out $(RUN)

test: $(VENV)/ready
	$(PY) -m pytest -n 2 --dist loadfile

slow: $(VENV)/ready
	$(PY) -m pytest -m slow

# the GPU kernels without a GPU: in Triton's interpreter, and compiled to machine code
interpret: $(VENV)/ready
	$(PY) -m pip install --quiet --constraint constraints.txt triton
	TRITON_INTERPRET=1 $(PY) -m pytest tests/test_triton.py tests/test_halves.py
	$(PY) -m pytest tests/test_gpu_code.py

# five minutes; BENCH takes more options, those of benchmarks/conftest.py among them
bench: $(VENV)/ready
	$(PY) -m pytest benchmarks -s --benchmark-columns=mean --benchmark-save=bench $(BENCH)

# a day; started again, it goes on where it was stopped
bench-full: $(VENV)/ready
	$(PY) -m pytest benchmarks -s --benchmark-columns=mean --benchmark-save=bench-full --full $(BENCH)

check: $(VENV)/ready
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

format: $(VENV)/ready
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

docs: $(VENV)/ready-docs
	$(PY) -m sphinx -W --keep-going -q docs docs/_build

$(VENV)/ready-docs: $(VENV)/ready
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist docs/_build docs/gallery docs/api
