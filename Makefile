# make demo: sets up a fresh clone and finds the nuclei in a real image. make test: sets up a fresh clone and runs all tests.
# make docs: builds the documentation as a site.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test test-package test-web test-napari docs docs-test docs-pictures golden lint format clean

demo: $(STAMP)
	$(BIN)/python -m cytoseed demo --output demo

# One process a core, and a file's tests in one process: they share what they export.
test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

# Wheel and sdist, built, checked, and installed in an environment of their own.
test-package:
	PYTHON='$(PYTHON)' bash .ci/package

# The page of examples/web in headless Chromium, on real images, beside Python.
test-web: $(STAMP)
	@if ! command -v npm >/dev/null; then echo 'skipped: Node and npm are not installed'; else \
	npm ci --ignore-scripts --prefix examples/web && \
	$(BIN)/python -m cytoseed export nuclei --to onnx --output examples/web/model --overwrite && \
	$(BIN)/python -m cytoseed export nuclei-he --to onnx --output examples/web/model --overwrite && \
	npm run build --prefix examples/web && \
	CYTOSEED_WEB=1 $(BIN)/python -m pytest tests/examples/test_web.py; fi

# The napari plugin, in an environment of its own, without a screen. On Linux, Qt needs the libraries of libegl1 and libdbus-1-3.
test-napari:
	test -x .venv-napari/bin/python || $(PYTHON) -m venv .venv-napari
	.venv-napari/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[napari]' pytest pytest-qt hypothesis
	.venv-napari/bin/npe2 validate cytoseed
	QT_QPA_PLATFORM=offscreen .venv-napari/bin/python -m pytest tests/napari_plugin

# The documentation as a site, in the folder site; a warning is an error.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Every page in full, also its trainings and, where CYTOSEED_DATA has it, its slide.
docs-test: $(STAMP)
	CYTOSEED_DOCS=all $(BIN)/python -m pytest tests/docs

# Runs the pages, and writes their pictures and numbers again.
docs-pictures: $(STAMP)
	MPLBACKEND=Agg $(BIN)/python docs/scripts/pages.py
	MPLBACKEND=Agg $(BIN)/python docs/scripts/figures.py

# Golden objects of this version anew, after its models changed.
golden: $(STAMP)
	$(BIN)/python tests/golden.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-napari .package demo dist site
