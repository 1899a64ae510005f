# make demo    build everything, train a Soft-IntroVAE on eight Gaussians for one to three minutes, draw pictures
# make test    the tests
# make lint    ruff and mypy
# make gpu-check OUT=DIR    on a machine with a GPU: build, test, look for memory errors, measure the ops
# make gpu-speed OUT=DIR    on a machine with a GPU: build, measure and profile training on images up to 1024x1024
# make gpu-train OUT=DIR DATA=PATH    on a machine with a GPU: build, train CIFAR-10's model for six MINUTES
# make venv    only the environment: .venv with torch, the dependencies and the package, rebuilt where out of date
#
# TORCH picks another torch (make demo TORCH=torch), PYTHON another interpreter, SIVAE_BUILD what is compiled.

PYTHON ?= python3
TORCH ?= torch==2.13.0
SIVAE_BUILD ?= auto
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)

VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(wildcard csrc/*.* csrc/*/*.*) CMakeLists.txt setup.py

.PHONY: venv demo test lint gpu-check gpu-speed gpu-train clean FORCE

venv: $(VENV)/.native

demo: venv
	$(BIN)/sivae train 8gaussians-quick
	@echo "$(BIN)/sivae train 8gaussians trains ten times as long, with the published settings; few points between the modes remain then"

# One thread a worker: the workers share the cores.
test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not gpu"

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# With the machine's own Python, torch, CUDA and compilers.
gpu-check gpu-speed gpu-train:
	@test -n '$(OUT)' || { echo 'make $@ OUT=DIR: name a folder for logs and results'; exit 2; }
	@test $@ != gpu-train || test -n '$(DATA)' || { echo 'make $@ OUT=DIR DATA=PATH: name the images'; exit 2; }
	$(PYTHON) -m benchmarks.gpu $(@:gpu-%=%) '$(OUT)' $(if $(filter gpu-train,$@),--data '$(DATA)' $(if $(MINUTES),--minutes $(MINUTES)))

clean:
	rm -rf build $(VENV) soft_intro_vae.egg-info sivae/_C.*.so sivae/_build_status.py

# What was asked for, by two files whose times change only when their content does.
$(VENV)/.request: FORCE
	@mkdir -p $(VENV)
	@echo '$(PYTHON) $(TORCH)' | cmp -s - $@ || echo '$(PYTHON) $(TORCH)' > $@

$(VENV)/.build-request: FORCE
	@mkdir -p $(VENV)
	@echo '$(SIVAE_BUILD)' | cmp -s - $@ || echo '$(SIVAE_BUILD)' > $@

$(VENV)/.ready: pyproject.toml $(VENV)/.request
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sivae needs Python 3.11 or newer; make PYTHON=python3.12 takes another one")'
	@same=$$($(PYTHON) -c 'import sys; print(sys.version_info[:3])'); \
	[ "$$same" = "$$($(BIN)/python -c 'import sys; print(sys.version_info[:3])' 2>/dev/null)" ] || rm -rf $(VENV)/bin $(VENV)/lib
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip setuptools
	$(BIN)/python -m pip install -q '$(TORCH)' pybind11 cmake ninja
	SIVAE_BUILD=none $(BIN)/python -m pip install -q --no-build-isolation -e '.[dev]'
	@touch $@

# Not marked as done where the compiler failed, so that the next call tries again.
$(VENV)/.native: $(VENV)/.ready $(VENV)/.build-request $(NATIVE)
	PATH="$(CURDIR)/$(BIN):$$PATH" SIVAE_BUILD=$(SIVAE_BUILD) $(BIN)/python setup.py -q build_ext --inplace
	@grep -q "^REASON = .compiling" sivae/_build_status.py || touch $@
