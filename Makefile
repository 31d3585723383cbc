# make help lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := build

GO ?= go
VARVE_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/varve
export VARVE_CACHE
BIN := bin/varve

.PHONY: build
build: ## bin/varve, static and reproducible
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN) ./cmd/varve

.PHONY: kernel
kernel: ## build the test kernel (once; cached) and print its path as the last line
	@integration/kernel/build

.PHONY: vm
# make itself says only 0 or 2; integration/vm/run returns the command's own status.
vm: ## run CMD='...' in the test kernel; fails as it does ("Error 3" for exit status 3)
	@[ -n "$$VARVE_VM_CMD" ] || { echo "usage: make vm CMD='command line'" >&2; exit 2; }
	@integration/vm/run $(VMFLAGS) -- "$$VARVE_VM_CMD"
export VARVE_VM_CMD := $(value CMD)

.PHONY: clean
clean: ## remove what was built here; the cache outside the checkout stays
	rm -rf bin out

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
