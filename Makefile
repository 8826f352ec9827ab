# make generate PROMPT="..."   set everything up and make an image
# make test                    set everything up and run the tests
PYTHON ?= python3
TORCH ?= torch==2.13.0
PROMPT ?= a lighthouse at sunset, snowy mountains, pine trees
OUT ?= out/image.png
ARGS ?=
BIN := .venv/bin
READY := .venv/ready
READY_DEV := .venv/ready-dev

.PHONY: generate test check lint clean

generate: $(READY)
	@mkdir -p $(dir $(OUT))
	$(BIN)/megen generate "$(PROMPT)" --out $(OUT) --report $(OUT:.png=.json) $(ARGS)

test: $(READY_DEV)
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

lint: $(READY_DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

check: lint test

# torch is pinned here so that pip takes the CPU build; on a GPU host set TORCH to the build for your driver
$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" -e .
	@touch $@

$(READY_DEV): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" -e ".[dev]"
	@touch $@ $(READY)

clean:
	rm -rf .venv out
