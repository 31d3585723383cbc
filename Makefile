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

# What runs the tests is a program, which this builds first.
RUNNER := integration/runner/start

.PHONY: check
check: ## while you work: build, vet, lint, and unit tests of what changed; ALL=1 tests all
	@$(RUNNER) check $(if $(ALL),-all)

.PHONY: test
test: ## everything: lint, unit, race, property, fuzz seeds, and the tests on devices in the test kernel; ONLY='race|vm/fs' picks steps
	@$(RUNNER) test $(if $(ONLY),-only '$(ONLY)')

.PHONY: lint
lint: ## golangci-lint alone, as make test runs it
	@$(RUNNER) lint

.PHONY: integration
integration: ## the tests in the test kernel alone; RUN='regexp' picks some of ./integration
	@integration/run $(if $(RUN),-run '$(RUN)' ./integration)

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (30s); RUN='regexp' picks some
	@$(RUNNER) fuzz -time $(FUZZTIME) $(if $(RUN),-run '$(RUN)')

.PHONY: crash
crash: ## try to lose something for hours: cuts, kills, faults; CRASHFLAGS='-rounds 10 -cuts 1000 -only regexp'
	@integration/crash/run $(CRASHFLAGS)

.PHONY: xfstests
xfstests: ## an installed xfstests on varve and on loop devices: XFSTESTS=DIR [FSTYP=xfs] [GROUP=quick] [TESTS='generic/001 …']
	@integration/xfstests/run

.PHONY: blktests
blktests: ## an installed blktests on devices of varve and of kublk: BLKTESTS=DIR [GROUP="ublk block"] [TESTS="ublk/002 …"] [TARGETS=varve]
	@integration/blktests/run

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
	@$(MAKE) -s build
	@integration/vm/run $(VMFLAGS) -- "$$VARVE_VM_CMD"
export VARVE_VM_CMD := $(value CMD)

.PHONY: bench
bench: build ## measure varve, its rivals and the yardsticks in one boot of the test kernel
	@integration/bench/run

.PHONY: bench-rings
bench-rings: ## varve's ring beside giouring's
	@integration/bench/rings

.PHONY: bench-collect
bench-collect: build ## how much space collection gives back, and what it does to I/O meanwhile
	@integration/bench/collect

.PHONY: plot
plot: ## docs/claims.png, and its table, again from the figures in docs/claims.json
	@$(GO) run ./integration/bench claims -in docs/claims.json -png docs/claims.png

.PHONY: kernel-build-test
kernel-build-test: ## build a tiny kernel on ext4 on a volume and on a loop device: same files? how long? ROUNDS=2
	@integration/bench/kernel-build

.PHONY: clean
clean: ## remove what was built here; the cache outside the checkout stays
	rm -rf bin out

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
