# Keyward's build. `make help` lists the targets; every one of them runs without a terminal.
SHELL := /bin/bash
GO ?= go
export CGO_ENABLED ?= 0
BIN := bin
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unversioned)
LDFLAGS := -s -w -X main.version=$(VERSION) -X keyward/agent/internal/cli.Version=$(VERSION)

# What the demonstration needs, and what the tests need beyond it.
DEMO_PACKAGES := cryptsetup-bin e2fsprogs xfsprogs
TEST_PACKAGES := $(DEMO_PACKAGES) gcc libc6-dev qemu-utils qemu-system-x86 busybox-static libnbd-bin python3-libnbd nbdkit \
	fio postgresql chromium fonts-dejavu-core lvm2 btrfs-progs dosfstools mdadm cpio zstd openssl python3-cryptography \
	python3-cryptography-vectors gnutls-bin qemu-user-static ntfs-3g exfatprogs f2fs-tools gdisk genisoimage squashfs-tools \
	dpkg-dev xz-utils gdb libgfshare-bin zip clamav-daemon iproute2 softhsm2 python3-pykmip age swtpm

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.DEFAULT_GOAL := help

.PHONY: build
build: ## build bin/keyward-broker and bin/keyward-agent
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/keyward-broker ./broker
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/keyward-agent ./agent

.PHONY: build-pkcs11
build-pkcs11: ## build bin/keyward-broker with PKCS#11 tokens (needs a C compiler; not static)
	CGO_ENABLED=1 $(GO) build -tags pkcs11 -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/keyward-broker ./broker

# install-missing PACKAGES: touches the network only when something is missing.
define install-missing
	@missing=""; for p in $(1); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
		echo "installing$$missing"; export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
endef

.PHONY: setup
setup: ## install the Debian packages that the tests use
	$(call install-missing,$(TEST_PACKAGES))

.PHONY: setup-demo
setup-demo:
	$(call install-missing,$(DEMO_PACKAGES))

.PHONY: demo demo-check demo-stop
demo: setup-demo build ## show the product end to end and leave it running
	$(GO) build -o build/demo ./e2e/demo
	build/demo run
demo-check: setup-demo build ## the same unattended; leaves nothing behind
	$(GO) build -o build/demo ./e2e/demo
	build/demo check
demo-stop: ## stop the demonstration and remove every trace of it
	$(GO) build -o build/demo ./e2e/demo
	build/demo stop

.PHONY: test
test: setup build vet ## everything that can be tested on one machine
	$(GO) run ./e2e/leftovers -record build/leftovers.json
	$(GO) test -timeout 20m ./...
	$(MAKE) --no-print-directory test-pkcs11
	CGO_ENABLED=1 $(GO) test -race -timeout 20m $(RACE_PACKAGES)
	$(GO) run ./e2e/leftovers -compare build/leftovers.json
	$(MAKE) --no-print-directory features

.PHONY: test-pkcs11
test-pkcs11: ## test root keys in a PKCS#11 token, with SoftHSM
	CGO_ENABLED=1 $(GO) vet -tags pkcs11 ./broker/internal/rootkey
	CGO_ENABLED=1 $(GO) test -tags pkcs11 -run Token ./broker/internal/rootkey

# Where goroutines share state; the race detector costs too much time everywhere.
RACE_PACKAGES := ./nbdcrypt ./nbdcrypt/blockdev ./nbdcrypt/nbd ./nbdcrypt/keymem

.PHONY: vet
vet: ## formatting, go vet, and that go.mod is tidy
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "not formatted (run gofmt -w):"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(GO) mod tidy -diff

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (default 30s)
	@for p in $$(grep -rlE '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u); do \
		for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' $$p/*_test.go | awk '{print $$2}'); do \
			echo "== $$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(or $(FUZZTIME),30s) $$p || exit 1; \
		done; \
	done

.PHONY: soak
soak: setup ## cut the power of a virtual machine CUTS times (default 500; about two seconds each)
	$(GO) test ./e2e/vm -run 'TestPowerCut_every' -count=1 -timeout 4h -v -args -cuts $(or $(CUTS),500)

.PHONY: bench
bench: ## measure the hot paths beside their peers (BENCH=xts|nbd|mount|broker|all)
	$(GO) run ./bench $(or $(BENCH),all)

.PHONY: features
features: ## check that every row of docs/features.md names a test that exists
	@$(GO) run ./e2e/features

.PHONY: clean
clean: ## remove what was built
	rm -rf $(BIN) build
