# make demo    build everything and show a whole stack working
# make test    every test
# Both install the Debian packages they need; run them as root.

GO       ?= go
BIN      := bin
IMAGES   := build/images
PREFIX   ?= /usr/local
DESTDIR  ?=
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT   := $(shell git rev-parse --short HEAD 2>/dev/null)
STAMP    := -X main.version=$(VERSION) -X main.commit=$(COMMIT)
# Race-built tests compile cgo too; the tag gives them seccomp as in the product.
TESTTAGS := -tags seccomp
# Run by its version, it has a module graph of its own and go.mod stays free of it.
LINTER   := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.6.2

.PHONY: build images demo test unit scenarios load bench record fuzz lint fmt install uninstall clean

build:
	@scripts/setup build
	GO='$(GO)' runtime/keeper/server/precompile/build $(BIN)/gantry-runtime '$(STAMP)'
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w $(STAMP)' -o $(BIN)/gantryd ./cmd/gantryd
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w $(STAMP)' -o $(BIN)/gantry ./cmd/gantry

demo: build
	@scripts/setup images
	@scripts/images $(IMAGES) shop-front shop-web shop-db shop-cache
	@scripts/demo $(BIN) $(IMAGES)

# Unit tests with the race detector, then the house's laws and the scenarios on
# the real programs. What the latter run on is made beside the former.
test: build
	@scripts/setup test
	@scripts/images $(IMAGES) busybox
	@$(MAKE) --no-print-directory -j2 --output-sync=none unit images
	@$(MAKE) --no-print-directory scenarios

images:
	@scripts/images $(IMAGES) busybox shop-front shop-web shop-db shop-cache

unit: build
	@scripts/setup test
	@scripts/images $(IMAGES) busybox
	$(GO) vet $(TESTTAGS) ./...
	$(GO) test $(TESTTAGS) -race -timeout 8m $$($(GO) list $(TESTTAGS) ./... | grep -v '/tests')

scenarios: build
	@scripts/setup test
	@scripts/images $(IMAGES) busybox shop-front shop-web shop-db shop-cache
	$(GO) test $(TESTTAGS) -timeout 12m ./tests/...

# A hundred clients for three minutes. `make test` does the same for seconds.
load: build
	@scripts/setup test
	@scripts/images $(IMAGES) busybox
	GANTRY_LOAD=3m $(GO) test $(TESTTAGS) -count=1 -timeout 12m -v -run 'TestLoad$$' ./tests

bench: build
	@scripts/setup bench
	@scripts/images $(IMAGES) busybox
	$(GO) run $(TESTTAGS) ./tests/bench

# Asks Debian's dockerd again what tests/recorded compares gantry with.
record:
	@scripts/setup bench
	@scripts/images $(IMAGES) busybox
	$(GO) run ./tests/recorded/record

# A minute for each target.
fuzz:
	@scripts/fuzz 60s

# The rules and their reasons are in .golangci.yml.
lint:
	@scripts/setup build
	$(GO) run $(LINTER) run --build-tags seccomp ./...

fmt:
	gofmt -w $$(git ls-files '*.go')

install: build
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/bin $(BIN)/gantry $(BIN)/gantryd $(BIN)/gantry-runtime
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d $(DESTDIR)$(PREFIX)/share/man/man1
	$(BIN)/gantry completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/gantry
	$(BIN)/gantry completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_gantry
	$(BIN)/gantry completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/gantry.fish
	$(BIN)/gantry man $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(DESTDIR)/etc/systemd/system
	sed 's|@PREFIX@|$(PREFIX)|' packaging/gantryd.service > $(DESTDIR)/etc/systemd/system/gantryd.service

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/gantry $(DESTDIR)$(PREFIX)/bin/gantryd $(DESTDIR)$(PREFIX)/bin/gantry-runtime
	rm -f $(DESTDIR)$(PREFIX)/share/bash-completion/completions/gantry $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_gantry \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/gantry.fish $(DESTDIR)$(PREFIX)/share/man/man1/gantry*.1
	rm -f $(DESTDIR)/etc/systemd/system/gantryd.service

clean:
	rm -rf $(BIN) build
