# make generate PROMPT="..."   set everything up and make an image
# make test                    set everything up and run the tests
PYTHON ?= python3
TORCH ?= torch==2.13.0
PROMPT ?= a lighthouse at sunset, snowy mountains, pine trees
OUT ?= out/image.png
ARGS ?=
export PROMPT
BIN := .venv/bin
READY := .venv/ready
READY_DEV := .venv/ready-dev

.PHONY: generate test check lint clean

generate: $(READY)
	@mkdir -p $(dir $(OUT))
	$(BIN)/megen generate "$$PROMPT" --out $(OUT) --report $(basename $(OUT)).json $(ARGS)

test: $(READY_DEV)
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

lint: $(READY_DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

check: lint test

# TORCH names the PyTorch build: set it to the one for your GPU, or where pip would take a CUDA build that you do not want
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
