# Two commands set everything up: `make reproduce` (the default workflow) and `make test`.
PYTHON ?= python3
CORES ?= all
BIN := .venv/bin
export OMP_WAIT_POLICY := PASSIVE

.PHONY: reproduce real-result new test long mutants real published dead-features kill staleness staleness-table bench slurm slurm-packages browser-packages lint docs world-models ship-world real-models ship-real clean

# The environment is made anew when the pinned requirements change.
.venv/installed: envs/requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r envs/requirements.txt
	touch $@

# The same pins for `snakemake --sdm conda` (docs/run/anywhere.md).
envs/vlmdiff.yaml: envs/requirements.txt
	$(PYTHON) envs/to_conda.py

# Libraries that tests compare with; the workflow itself needs none of them.
.venv/peers: envs/peers.txt .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -r envs/peers.txt
	$(BIN)/pip check
	touch $@

# Libraries that `make bench` measures beside ours.
.venv-bench/installed: envs/requirements.txt envs/peers.txt envs/bench.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --disable-pip-version-check -r envs/requirements.txt -r envs/peers.txt
	.venv-bench/bin/pip install --quiet --disable-pip-version-check --no-deps -r envs/bench.txt
	touch $@

# Snakemake's executor for Slurm; `make slurm` and a cluster's login node use it.
.venv-slurm/installed: envs/requirements.txt envs/slurm.txt
	$(PYTHON) -m venv .venv-slurm
	.venv-slurm/bin/pip install --quiet --disable-pip-version-check -r envs/requirements.txt -r envs/slurm.txt
	.venv-slurm/bin/pip check
	touch $@

# Real weights, tokenizers and English text, which packages ship (docs/develop/real_lm.md); nothing of it runs elsewhere.
.venv-real/installed: envs/requirements.txt envs/real.txt
	$(PYTHON) -m venv .venv-real
	.venv-real/bin/pip install --quiet --disable-pip-version-check -r envs/requirements.txt
	.venv-real/bin/pip install --quiet --disable-pip-version-check --no-deps -r envs/real.txt
	touch $@

# What published checkpoints and dictionaries are compared with (docs/develop/published.md): all processors of transformers.
.venv-published/installed: envs/requirements.txt envs/peers.txt envs/published.txt
	$(PYTHON) -m venv .venv-published
	.venv-published/bin/pip install --quiet --disable-pip-version-check \
		-r envs/requirements.txt -r envs/peers.txt -r envs/published.txt
	touch $@

# The pages as a site.
.venv-docs/installed: envs/docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet --disable-pip-version-check -r envs/docs.txt
	touch $@

reproduce: .venv/installed
	$(BIN)/snakemake --cores $(CORES)
	$(BIN)/snakemake --report results/report.html

# The study of a real language model that was taught to see (docs/understand/real_model.md): its controls are
# tuned first, an hour or two each, and the study takes hours.
real-result: .venv/installed
	$(BIN)/snakemake --cores $(CORES) --configfile config/smollm2.yaml
	$(BIN)/snakemake --cores $(CORES) --configfile config/smollm2.yaml -- controls stages scoreboard

# A config of your own: make new BASE=checkpoints/base VLM=checkpoints/vlm DATA=photos [OUT=config/other.yaml]
# [ARGS="--text corpus.txt"] (docs/start/your_own_model.md).
new: .venv/installed
	PYTHONPATH=workflow_scripts $(BIN)/python -m vlmdiff.config.new --base "$(BASE)" --vlm "$(VLM)" --data "$(DATA)" \
		$(if $(OUT),--out "$(OUT)") $(ARGS)

test: .venv/peers
	$(BIN)/pytest -n 2 --durations 25 -m "not workflow and not long"
	$(BIN)/pytest --durations 25 -m "workflow and not long"

# What `make test` leaves out, so that it takes less than half an hour on two slow cores: what the default
# workflow finds, experiments in published layouts, kills and damage in a whole run, most kills of trainings.
long: .venv/peers real
	$(BIN)/pytest -n 2 -m "long and not workflow"
	$(BIN)/pytest -m "long and workflow"

# The whole method on real language models and real English text, from packages (docs/develop/real_lm.md); `make real ARGS="-k tokenizers"`.
real: .venv-real/installed
	.venv-real/bin/pytest tests/real $(ARGS)

# Fetches published checkpoints and dictionaries, looks at each and writes what worked (docs/develop/published.md). It tells
# sizes and stops; `make published ARGS="--most-gb 5"` fetches. Never in CI.
published: .venv/installed .venv-published/installed
	PYTHONPATH=workflow_scripts:tests $(BIN)/python -m published $(ARGS)

# Puts small faults into the core, one at a time, and counts how many the unit tests notice (docs/develop/tests.md): the
# reviewed list and a sample of faults made by rule. `make mutants ARGS="--room features --only funnel"` for some.
mutants: .venv/peers
	PYTHONPATH=tests $(BIN)/python -m mutation $(ARGS)

# Dead features and FVU of random starts on a real model, ours and other libraries (docs/develop/dead_features.md).
dead-features: .venv-real/installed .venv-bench/installed
	.venv-real/bin/python tests/real/prepare.py results/real_sources smollm2
	PYTHONPATH=workflow_scripts:tests .venv-bench/bin/python -m benchmarks.dead_features \
		results/real_sources $(ARGS)

# Kills the small experiment again and again and compares what is left with an uninterrupted run
# (docs/develop/dependability.md); `make kill ARGS="--kills 40 --seed 0"`.
kill: .venv/installed
	PYTHONPATH=workflow_scripts:tests $(BIN)/python -m dependable $(ARGS)

# Every change of configuration, code and files against the reviewed table (docs/develop/dependability.md); `make test` tries
# sixty of different kinds. With ARGS=--reuse-run the tiny experiment is brought up to date instead of made from nothing.
staleness: .venv/peers
	$(BIN)/pytest tests/workflow/test_staleness.py --every-change $(ARGS)

# Write that table anew, to be reviewed.
staleness-table: .venv/peers
	$(BIN)/pytest tests/workflow/test_staleness.py --write-staleness $(ARGS)

# Side-by-side timings; `make bench ARGS="--only topk_step"` for some of them. Freed memory is kept, as in jobs.
bench: .venv-bench/installed
	MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824 \
		PYTHONPATH=workflow_scripts:tests .venv-bench/bin/python -m benchmarks $(ARGS)

# The workflow on a real Slurm that the tests start on this machine; `make slurm ARGS="-k short"` for few jobs.
slurm: .venv-slurm/installed
	.venv-slurm/bin/pytest tests/slurm $(ARGS)

# Debian's Chromium and Firefox, in which the explorer is tried (tests/browser; Debian has no geckodriver, and none is
# needed). Needs root.
browser-packages:
	apt-get update --quiet
	apt-get install --yes --no-install-recommends chromium chromium-driver firefox-esr

# Debian's Slurm and munge, which `make slurm` needs; no service is configured. Needs root.
slurm-packages:
	apt-get update --quiet
	apt-get install --yes --no-install-recommends munge slurmctld slurmd slurm-client

lint: .venv/peers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/python tests/rule_lints.py
	$(BIN)/pymarkdown scan --recurse docs README.md CONTRIBUTING.md

# Builds the pages into site/, to be opened at site/index.html; a link that leads nowhere stops it.
docs: .venv-docs/installed
	.venv-docs/bin/zensical build --clean --strict

# Train the built-in world's models from nothing and put them in the place of the shipped ones.
world-models: .venv/installed
	$(BIN)/snakemake --cores $(CORES) world_models

ship-world: world-models
	PYTHONPATH=workflow_scripts $(BIN)/python -m vlmdiff.world.shipping \
		--from results/builtin/world/models --to resources/world

# Tune the real language model's adapters from nothing and put them in the place of the shipped ones: hours.
real-models: .venv/installed
	$(BIN)/snakemake --cores $(CORES) --configfile config/smollm2.yaml --config "world={models: train}" -- world_models

ship-real: real-models
	PYTHONPATH=workflow_scripts $(BIN)/python -m vlmdiff.world.real.shipping \
		--from results/smollm2/world/tuned --to resources/smollm2

clean:
	rm -rf .venv .venv-bench .venv-docs .venv-slurm .venv-real .venv-published site .snakemake
	find results -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
