# make demo    five implants for the bundled skull, into results/demo
# make test    lint, types and all tests
# make lists   write the lists of files in the modules' CMakeLists.txt
#
# All paths are relative, so that the repository may lie in a folder with a space in its name.

PYTHON ?= python3
VENV_PYTHON = .venv/bin/python
INSTALLED = .venv/installed.stamp
DEMO = results/demo

.PHONY: demo test lists

demo: $(INSTALLED)
	.venv/bin/cranial-implant generate CranialImplant/CranialImplantLib/demo/demo_skull.nrrd -o $(DEMO)
	@echo
	@echo "The results are in $(DEMO). Open $(DEMO)/overview.png: it shows the skull with the five implants."

test: $(INSTALLED)
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m mypy
	$(VENV_PYTHON) -m pytest
	$(VENV_PYTHON) -m pytest Testing/in_slicer

lists:
	$(PYTHON) Testing/cmake_lists.py

# Runs again only when what is to be installed has changed. setuptools comes first and the build isolation is off, so
# that even then nothing is downloaded if all versions are there already.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; say which one: make PYTHON=python3.11")'
	$(VENV_PYTHON) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools
	$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[test]'
	touch $(INSTALLED)
