# Two commands matter: `make train` and `make test`. Both set up all they need.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RUNS = papermill_runs/first

.PHONY: help setup debian train test gpu-test lint copies lab viewers screenshots export readme

help:
	@echo "make train   set up, then train fold 0 on real histology and on MRI phantoms; ends with executed notebooks"
	@echo "make test    set up, then run the tests (SLOW=1 adds the slow ones)"
	@echo "make gpu-test  set up, then check on this machine's GPU what only a GPU can show; ends with an executed page"
	@echo "make lint    set up, then check the form of notebooks, tests and JavaScript, and the package's types and imports"
	@echo "make lab     set up, then open JupyterLab on lab/, working copies of the notebooks that git leaves alone"
	@echo "make copies  bring lab/ up to date, where JupyterLab runs already"
	@echo "make viewers build the viewers' JavaScript anew (needs npm; what it makes is kept in git)"
	@echo "make screenshots  take the README's pictures of the explore notebooks"
	@echo "make export  write mil_workbench/ from nbs/, clean the notebooks, make README.md"
	@echo "PYTHON and VENV choose the interpreter ($(PYTHON)) and the environment ($(VENV))"

setup: $(VENV)/.installed

$(VENV)/.installed: settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mil_workbench needs Python 3.11 or newer; give one with make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && apt-get install -y -qq python3-venv; \
	  else echo "Python's venv module is missing: install it (Debian: apt-get install python3-venv)"; exit 1; fi
	@echo "setting up $(VENV): about 6 GB, some minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

train: setup
	@mkdir -p $(RUNS)/fold0 $(RUNS)/mri-fold0
	$(BIN)/papermill nbs/runs/train.ipynb $(RUNS)/fold0/train.ipynb -p fold 0 -p study first -p run_name fold0
	$(BIN)/papermill nbs/runs/train.ipynb $(RUNS)/mri-fold0/train.ipynb -p cohort mri-phantom -p fold 0 -p study first -p run_name mri-fold0
	@$(BIN)/python -c "from mil_workbench.record.summary import summarise; print(summarise('$(RUNS)/fold0'), summarise('$(RUNS)/mri-fold0'), sep='\n')"

# unless the command $(1) is there: Debian's packages $(2)
install = command -v $(1) >/dev/null || \
  { [ "$$(id -u)" = 0 ] && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(2); } >/dev/null 2>&1 || \
  echo "$(1) is missing and could not be installed (as root: apt-get install $(2)): its tests will be skipped"

debian:
	@$(call install,sbatch,slurmctld slurmd slurm-client munge)
	@$(call install,chromium,chromium fonts-dejavu-core)

lint: setup
	$(BIN)/ruff format --quiet --check nbs tests setup.py
	$(BIN)/ruff check --quiet nbs tests setup.py
	$(BIN)/lint-imports --no-cache > /dev/null || $(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	@if command -v npm >/dev/null; then npm ci --silent --no-audit --no-fund && npm run --silent lint; \
	  else echo "npm is missing: the viewers' JavaScript was not checked"; fi

test: setup debian lint
	$(BIN)/python -m pytest --numprocesses 3 --dist loadgroup --no-loadscope-reorder $(if $(SLOW),,-m "not slow")

gpu-test: setup
	@mkdir -p papermill_runs/pages
	$(BIN)/papermill nbs/runs/gpu_check.ipynb papermill_runs/pages/gpu_check.ipynb

copies: setup
	@$(BIN)/python -c "from mil_workbench.working_copies import refresh_copies; print(refresh_copies())"

lab: copies
	$(BIN)/jupyter lab --ServerApp.root_dir=$(CURDIR) --LabApp.default_url=/lab/tree/lab

viewers:
	npm ci --no-audit --no-fund
	npm run build

screenshots: setup debian
	$(BIN)/python -m tests.browser.screenshots

export: setup
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	@$(MAKE) --no-print-directory readme

readme: setup
	$(BIN)/jupyter nbconvert --log-level=ERROR --to markdown nbs/index.ipynb --output-dir . --output README
	@sed -i 's#](\([a-z_/]*\.\(ipynb\|png\)\))#](nbs/\1)#g' README.md
