PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

DEVICES := .venv-devices

.PHONY: demo test quick devices lint bench gpu mutants faults soak many fuzz listen autoscaling memory people versions clean

# Train, search and compare on a tiny sample, on this machine.
demo: $(INSTALLED)
	$(BIN)/python jobs/ail_sweep.py demo

# All tests; those that need data or a teacher skip when AIL_DATA_DIR or AIL_TEACHER_DIR is unset.
test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

# The tests that start no Ray, no browser and no program, and compute for no more than some seconds.
quick: $(INSTALLED)
	$(BIN)/python -m pytest -m 'not ray and not browser and not long' -n 2 --dist worksteal

# Write students for every target and run them there, in an environment of its own that has all runtimes; none may skip.

# Students in the runtimes of devices, each installed into an environment of its own (gigabytes); no test may skip.
devices:
	@test -f $(DEVICES)/.installed || { $(PYTHON) -m venv $(DEVICES) \
	    && $(DEVICES)/bin/python -m pip install --quiet --disable-pip-version-check \
	        -e '.[dev,s3,openvino,ncnn,litert]' -c constraints.txt && touch $(DEVICES)/.installed; }
	AIL_REQUIRE_DEVICES=1 $(DEVICES)/bin/python -m pytest -q tests/delivery/test_devices.py

# Formatting, lint rules, types.
lint: $(INSTALLED)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy ail_ray jobs

# How fast the parts are, each against something to compare with.
bench: $(INSTALLED)
	$(BIN)/python jobs/benchmark.py

# What a GPU makes of the training; needs one.
gpu: $(INSTALLED)
	$(BIN)/python tests/gpu.py

# Break the code in known ways and see that the tests notice.
mutants: $(INSTALLED)
	$(BIN)/python tests/mutants.py

# Kill every part of a run and compare what is left with an uninterrupted one.
faults: $(INSTALLED)
	$(BIN)/python tests/orchestration/faults.py

# Kill runs over and over, for at most half an hour.
soak: $(INSTALLED)
	$(BIN)/python tests/orchestration/soak.py

# A hundred short trials on a few slots, timed; then the same with slots that are killed.
many: $(INSTALLED)
	$(BIN)/python tests/orchestration/many.py

# Ten thousand wrong commands, images, weights and manifests.
fuzz: $(INSTALLED)
	$(BIN)/python tests/fuzz.py

# Look for sockets that others could reach, and for secrets that were written down.
listen: $(INSTALLED)
	$(BIN)/python tests/orchestration/exposure.py

# Use every job at a terminal, in a pipe and in a closed one, and stop a sweep at five moments.
people: $(INSTALLED)
	$(BIN)/python tests/people.py

# Try the lowest versions of all dependencies that pyproject.toml allows, on every Python that is there. The tests that
# start a Ray or a browser are left out.
versions:
	@for python in $(or $(PYTHONS),python3.11 python3.12 python3.13); do \
	    $$python -c '' 2>/dev/null || { echo "no $$python here"; continue; }; \
	    scratch=$$(mktemp -d) && $$python -m venv $$scratch && echo "$$($$python --version), lowest versions" \
	    && $$scratch/bin/python -m pip install --quiet -e '.[dev,s3]' -c tests/lowest.txt \
	    && $$scratch/bin/python -m pytest -q -m 'not ray and not browser' -n 2 --dist loadfile; \
	    code=$$?; rm -rf $$scratch; [ $$code = 0 ] || exit $$code; \
	done

# Watch an autoscaler bring nodes for a sweep and let them go.
autoscaling: $(INSTALLED)
	$(BIN)/python tests/cluster/autoscaling.py

# Train on a corpus that no node could hold, and compare what every process takes with the plan.
memory: $(INSTALLED)
	$(BIN)/python tests/cluster/memory.py

# Remove environment and caches; results (ail_out, mlflow.db) stay.
clean:
	rm -rf .venv .venv-devices build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name .git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

# `make -j clean test` must not delete the environment that it is installing.
ifneq ($(filter clean,$(MAKECMDGOALS)),)
.NOTPARALLEL:
endif

# The stamp is written last, so an interrupted installation is taken up again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, $(PYTHON) is %d.%d; name another: make PYTHON=python3.12" % sys.version_info[:2])'
	@echo "Installing into .venv (several minutes the first time)"
	@$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,s3]' -c constraints.txt
	@touch $@
