# make help lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := build

GO ?= go
VARVE_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/varve
export VARVE_CACHE
BIN := bin/varve
FUZZTIME ?= 30s

.PHONY: build
build: ## bin/varve, static and reproducible
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -o $(BIN) ./cmd/varve

.PHONY: demo
demo: ## the main job on real input, on this machine's kernel: ublk, or the loop fallback
	@integration/demo

.PHONY: demo-vm
demo-vm: ## the same on real ublk, in the test kernel
	@integration/demo --vm

.PHONY: test
test: ## lint, unit, race, property, fuzz seeds, and the integration tests in the test kernel
	@integration/suite

.PHONY: lint
lint: ## golangci-lint alone, as make test runs it
	@$(VARVE_CACHE)/bin/golangci-lint run

.PHONY: integration
integration: ## the tests in the test kernel alone; RUN='regexp' picks some
	@integration/run $(if $(RUN),-run '$(RUN)' ./integration)

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (30s)
	@set -e; for p in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
		for f in $$(grep -h '^func Fuzz' $$p/*_test.go | sed 's/func \(Fuzz[A-Za-z0-9_]*\).*/\1/'); do \
			echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5s $$p; \
		done; done

.PHONY: crash
crash: ## try to lose something for hours: cuts, kills, faults; CRASHFLAGS='-rounds 10 -cuts 1000 -only regexp'
	@integration/crash/run $(CRASHFLAGS)

.PHONY: xfstests
xfstests: ## an installed xfstests on varve and on loop devices: XFSTESTS=DIR [FSTYP=xfs] [GROUP=quick] [TESTS='generic/001 …']
	@integration/xfstests/run

.PHONY: smp
smp: ## the tests of devices with two queues, on a distribution's kernel with two processors in qemu
	@integration/smp/run

.PHONY: kernel
kernel: ## build the test kernel (once; cached) and print its path as the last line
	@integration/kernel/build

.PHONY: vm
# make itself says only 0 or 2; integration/vm/run returns the command's own status.
vm: ## run CMD='...' in the test kernel; fails as it does ("Error 3" for exit status 3)
	@[ -n "$$VARVE_VM_CMD" ] || { echo "usage: make vm CMD='command line'" >&2; exit 2; }
	@integration/vm/run $(VMFLAGS) -- "$$VARVE_VM_CMD"
export VARVE_VM_CMD := $(value CMD)

.PHONY: bench
bench: build ## measure varve, its rivals and the yardsticks in one boot of the test kernel
	@integration/bench/run

.PHONY: bench-rings
bench-rings: ## varve's ring beside giouring's
	@integration/bench/rings

.PHONY: clean
clean: ## remove what was built here; the cache outside the checkout stays
	rm -rf bin out

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
