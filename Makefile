# Needs Go, git and make; `make test` as root installs and builds the rest.

GO      ?= go
DOCKER  ?= docker
PREFIX  ?= /usr/local
UNITDIR ?= /etc/systemd/system
FIREWALLDDIR ?= /usr/lib/firewalld
FUZZTIME ?= 30s

# What is built is put here.
bin  := bin
dist := dist

export DRAWBRIDGE_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/drawbridge

golangci := v2.15.0
lint     := $(DRAWBRIDGE_CACHE)/golangci-lint-$(golangci)/golangci-lint

# Tests of ring 2 and 3 say so in their names.
kernel := ^TestKernel
engine := ^TestEngine
# Ring 2 runs in a network namespace of its own even so, lest a mistake in a
# test meet the machine's own network.
netns  := $(if $(filter 0,$(shell id -u)),unshare -n,unshare -rn)

.PHONY: help
help: ## show this
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/drawbridge, static
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $(bin)/drawbridge ./cmd/drawbridge

.PHONY: test
test: ## run all three rings of tests; installs what is missing (root)
	@test/all

.PHONY: test-unit
test-unit: ## ring 1: without privilege, with the race detector
	$(GO) run ./test/ring unit -race -tags failpoints -skip '$(kernel)|$(engine)' ./...

.PHONY: test-net
test-net: ## ring 2: against the kernel, in network namespaces, with the race detector (root or not)
	$(GO) run ./test/ring kernel -race -tags failpoints -count=1 -exec '$(netns)' -run '$(kernel)' ./...

.PHONY: soak
soak: ## the reachability table of all kinds of network in all environments and on engines, ports that change hands, a crash at every step, random operations, and a daemon that is away for minutes (root): hours
	test/engines/fetch
	DRAWBRIDGE_SOAK=1 $(GO) run ./test/ring soak -count=1 -timeout 4h -exec '$(netns)' -run '^TestKernel(PacketsAgreeWithTheTable$$|WhoGetsAPacket)' ./firewall/...
	DRAWBRIDGE_SOAK=1 $(GO) run ./test/ring engine -count=1 -timeout 4h -run '^TestEngine(TheTableHolds|.*DiesAtAnyStep$$|RandomOperations|NothingIsLostWhile)' ./test/e2e

# More rounds take longer and are closer to the truth.
BENCHROUNDS ?= 5

.PHONY: bench
bench: ## what ports cost beside Docker's own bridge, on engines (root): twenty minutes
	test/engines/fetch
	DRAWBRIDGE_BENCH=$(BENCHROUNDS) $(GO) test -count=1 -v -timeout 2h -run '$(engine)' ./test/bench $(BENCHFLAGS)

# Scenarios wait for clocks and engines longer than they compute.
.PHONY: e2e
e2e: ## ring 3: the whole product on the oldest and the newest engine (root)
	test/engines/fetch
	$(GO) run ./test/ring engine -count=1 -timeout 40m -p 1 -parallel $$(($$(nproc) * 5 / 2)) -run '$(engine)' ./test/...

.PHONY: check
check: fmt vet lint test-unit ## before each commit: format, vet, lint, ring 1

.PHONY: fmt
fmt: ## say which files are not formatted
	@files=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$files" || { echo "gofmt -w $$files"; exit 1; }

.PHONY: vet
vet: ## go vet
	$(GO) vet ./...

.PHONY: lint
lint: $(lint) ## golangci-lint, built once into the cache
	$(lint) run ./...

$(lint):
	GOBIN=$(@D) GOFLAGS=-buildvcs=false CGO_ENABLED=0 $(GO) install -trimpath -ldflags '-s -w' \
		github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(golangci)

# Inputs are streams of choices, of which short ones are no easier to read: the
# time is not spent on making them shorter.
.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (30s)
	@for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$pkg || exit 1; \
		done; \
	done

.PHONY: golden
golden: ## rewrite the golden files from what the code does now
	$(GO) test -p 1 -skip '$(kernel)|$(engine)' \
		$$(grep -rl --include='*_test.go' 'test/golden"' . | xargs -r -n1 dirname | sort -u) -update
	$(GO) test -count=1 -exec '$(netns)' -run '$(kernel)Docs' ./test/docs -update

.PHONY: demo
demo: build ## see it work on a private engine; this machine's stays untouched (root)
	test/engines/fetch tools debian
	$(GO) test -c -o bin/demo ./test/demo
	cd test/demo && ../../bin/demo

.PHONY: install
install: build ## install the program, its systemd unit and its zone for firewalld on this machine (root)
	install -D $(bin)/drawbridge $(DESTDIR)$(PREFIX)/bin/drawbridge
	install -D -m 644 packaging/drawbridge.service $(DESTDIR)$(UNITDIR)/drawbridge.service
	sed -i 's|/usr/local/bin/|$(PREFIX)/bin/|' $(DESTDIR)$(UNITDIR)/drawbridge.service
	for f in zones/drawbridge.xml policies/drawbridge-in.xml; do \
		install -D -m 644 packaging/firewalld/$$f $(DESTDIR)$(FIREWALLDDIR)/$$f || exit 1; \
	done
	@# A reload is the only way to have files read, and drops what is not permanent.
	@# Before 0.9 firewalld has zones and no policies.
	@if test -z "$(DESTDIR)" && firewall-cmd --state >/dev/null 2>&1 && \
		! { firewall-cmd --get-policies || firewall-cmd --get-zones; } 2>/dev/null | grep -qw drawbridge; then firewall-cmd --reload; fi
	@echo "now: systemctl daemon-reload && systemctl enable --now drawbridge"

plugin := drawbridge/drawbridge:latest

.PHONY: plugin
plugin: build ## the managed plugin in dist/plugin and, if an engine answers, in Docker
	packaging/rootfs $(bin)/drawbridge $(dist)/plugin/rootfs
	cp config.json $(dist)/plugin/config.json
	@if $(DOCKER) version >/dev/null 2>&1; then \
		$(DOCKER) plugin create $(plugin) $(dist)/plugin && echo "now: docker plugin enable $(plugin)"; \
	else \
		echo "no engine answers; where one does: docker plugin create $(plugin) $(dist)/plugin"; \
	fi

.PHONY: hooks
hooks: ## run `make check` before each commit in this clone
	printf '#!/bin/sh\nexec make check\n' >"$$(git rev-parse --git-path hooks)/pre-commit"
	chmod +x "$$(git rev-parse --git-path hooks)/pre-commit"

.PHONY: clean
clean: ## remove what was built here; the cache stays
	rm -rf $(bin) $(dist)
