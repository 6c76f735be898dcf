# The two commands a fresh machine needs: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test test-slow rooms mutants fuzz lint docs proof lower-bounds runtime-alone arm64 footprint clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/detheads demo

# mypy resolves packages by folder, so it reads the tree as it is installed: the other rooms inside detheads/.
lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/typed && mkdir -p build/typed && cp -rs $(CURDIR)/detheads build/typed/
	cp -rs $(CURDIR)/analytical $(CURDIR)/export $(CURDIR)/deploy build/typed/detheads/
	cd build/typed && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml detheads

# One process a core, each with one thread: two threads of a small model are not twice as fast as one.
test: lint
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# Files and lines by room and the arrows between rooms; fails when one runs upward. TREE=... shows another checkout.
rooms:
	$(PYTHON) tests/rooms.py $(TREE)

test-slow: setup
	$(BIN)/python -m pytest -m slow

docs: setup
	$(BIN)/python -m mkdocs build --strict

# Checks the proof that the cofiber bands lose nothing; needs Coq (Debian: apt install coq).
proof:
	rm -rf build/proof && mkdir -p build/proof && cp tests/exactness/Cofiber.v build/proof/
	cd build/proof && coqc Cofiber.v

# Plants small faults one by one in a copy of the tree. MODULE=ops/losses: one module only. SAMPLE=0: every fault.
mutants: setup
	$(BIN)/python tests/mutation $(if $(MODULE),--module $(MODULE)) $(if $(SAMPLE),--sample $(SAMPLE))

# Altered inputs, wild command lines and requests, other ones each time; every fault is shown with a case. SEED=1 repeats a run.
fuzz: setup
	DETHEADS_FUZZ_CASES=$(or $(CASES),20000) $(BIN)/python -m pytest tests/fuzz $(if $(SEED),--hypothesis-seed=$(SEED))

# The tests of the runtime with every dependency at its lower bound, in a fresh environment; LOW=python3.10 by default.
LOW ?= python3.10
LOWEST := build/lower-bounds
LOW_EXTRAS := cpu export formats frigate hotcoco package serve sign
lower-bounds: setup
	rm -rf $(LOWEST) && $(LOW) -m venv $(LOWEST)
	$(BIN)/python tests/lower_bounds.py $(LOW_EXTRAS) pytest hypothesis httpx psutil > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --requirement $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --no-deps --editable .
	$(LOWEST)/bin/python -m pip check
	$(LOWEST)/bin/python -m pytest tests/deploy tests/foundation

# Megabytes, import, first detection and memory beside other packages, each alone in a fresh environment (gigabytes, minutes).
# ONLY="detheads ultralytics" measures these alone.
footprint: setup
	$(BIN)/python tests/footprint.py $(or $(BUNDLE),$(error give BUNDLE=FOLDER)) $(or $(PICTURE),$(error give PICTURE=FILE)) $(if $(ONLY),--only $(ONLY))

# The tests of the runtime with current dependencies and without PyTorch, in a fresh environment, on a toy bundle that is
# made here; RUNTIME=python3.10 by default, which is what JetPack 6 ships.
RUNTIME ?= python3.10
ALONE := build/runtime-alone
runtime-alone: setup
	rm -rf $(ALONE) && $(RUNTIME) -m venv $(ALONE)/venv
	$(BIN)/python -m tests.without_torch $(ALONE)/toy
	$(ALONE)/venv/bin/python -m pip install --quiet --editable '.[cpu,frigate,hotcoco,package,serve,sign,video]'
	$(ALONE)/venv/bin/python -m pip install --quiet pytest hypothesis httpx psutil pycocotools pyyaml 'onnx>=1.19'
	$(ALONE)/venv/bin/python -m pip check
	DETHEADS_TOY=$(CURDIR)/$(ALONE)/toy $(ALONE)/venv/bin/python -m pytest -p tests.without_torch tests/deploy tests/foundation

# Whether the package index has every wheel that a 64-bit ARM device needs, for each Python: the table of docs/edge.md.
arm64: setup
	$(BIN)/python -m tests.arm64

clean:
	rm -rf $(VENV) build dist *.egg-info
