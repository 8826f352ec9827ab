# make generate PROMPT="..."   set everything up and make an image
# make serve                   set everything up and run an edge server with its page
# make test                    set everything up and run the tests
# make docs                    set everything up and build the documentation into out/site
PYTHON ?= python3
TORCH ?= torch==2.13.0
PROMPT ?= a lighthouse at sunset, snowy mountains, pine trees
OUT ?= out/image.png
ARGS ?=
export PROMPT
BIN := .venv/bin
READY := .venv/ready
READY_DEV := .venv/ready-dev

.PHONY: generate serve test check lint docs clean

generate: $(READY)
	@mkdir -p $(dir $(OUT))
	$(BIN)/megen generate "$$PROMPT" --out $(OUT) --report $(basename $(OUT)).json $(ARGS)

serve: $(READY)
	$(BIN)/megen serve $(ARGS)

test: $(READY_DEV)
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY_DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(READY_DEV)
	PYTHONPATH=src NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir out/site

check: lint docs test

# TORCH names the PyTorch build: set it to the one for your GPU, or where pip would take a CUDA build that you do not want
$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" -e ".[server]"
	@touch $@

$(READY_DEV): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" -e ".[dev]"
	@touch $@ $(READY)

clean:
	rm -rf .venv out
