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
# Everything is compiled alike, also what tests build on their own: so it is
# compiled once. The tag seccomp gives tests what the product has; what is special
# about the modules is in scripts/modules. No program keeps what debuggers read,
# and no package is compiled by several threads: there are packages enough. Go's
# own are compiled as everybody does, for the image golang has them, too.
export GOFLAGS := -trimpath -tags=seccomp,netgo,osusergo -modfile=$(CURDIR)/build/gantry.mod '-gcflags=all=-dwarf=false -c=1' -gcflags=std=
# The compiler collects no garbage unless it has a gigabyte: a quarter less work,
# for memory that it has for seconds. What it has compiled must not inherit that.
LAVISH   := GOGC=off GOMEMLIMIT=1GiB
COMPILE  := $(LAVISH) $(GO)
ASIDE    := -exec 'env -u GOGC -u GOMEMLIMIT'
# What cgo makes of a file names the directory it was in, which nothing in the
# build cache's key does; vet reads that file. The flag puts it there: a cache
# filled by another checkout, since removed, is no use to this one.
VET      := CGO_CFLAGS='-O2 -g -ffile-prefix-map=$(CURDIR)=gantry' $(GO) vet -vettool=$(CURDIR)/scripts/vet ./...
# Run by its version, it has a module graph of its own and go.mod stays free of it.
LINTER   := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.6.2

.PHONY: modules build images demo test ahead unit lives soak scenarios load wholeness chaos mutate bench record fuzz lint fmt install uninstall clean

build: modules
	$(LAVISH) GO='$(GO)' runtime/keeper/server/precompile/build $(BIN)/gantry-runtime '$(STAMP)'
	CGO_ENABLED=0 $(COMPILE) build -ldflags '-s -w $(STAMP)' -o $(BIN)/ ./cmd/gantry ./cmd/gantryd ./cmd/gantry-registry

modules:
	@scripts/setup build
	@GO='$(GO)' scripts/modules

demo: build
	@scripts/setup images
	@scripts/images $(IMAGES) debian golang
	@scripts/demo $(BIN) $(IMAGES)

# The scenarios on the real programs and the house's laws, then the unit tests
# with the race detector. Compiling is most of the work on a new machine: what
# unit tests need is compiled while scenarios wait, and only then.
test:
	@scripts/setup test
	@scripts/images $(IMAGES) golang
	@$(MAKE) --no-print-directory -j2 --output-sync=none build images
	@$(MAKE) --no-print-directory -j2 --output-sync=none scenarios ahead
	@$(MAKE) --no-print-directory unit
	GANTRY_SEED=1 GANTRY_LIVES=100000 $(LIVES)

images:
	@scripts/images $(IMAGES) busybox debian golang

# The registry is tested as a program, by scenarios: to compile its library for
# the race detector takes as long as half of BuildKit.
# Those that take longest are first: at the end nobody is left to run beside them.
# At least four at once, for many of them wait most of the time.
LONG := $(addprefix gantry/,runtime/keeper runtime network scheduler runtime/image daemon compose)
UNIT = $(LONG) $$($(GO) list ./... | grep -v -e '/tests' -e '/registry$$' -e '/cmd/gantry$$' -e '/cmd/gantry-')

# To compile without inlining takes a quarter less.
RACE := -race '-gcflags=all=-l -dwarf=false -c=1'

# Only compiles and reads, and has the processors when nobody else wants them.
ahead: build
	chrt --idle 0 env $(COMPILE) build $(RACE) $$($(GO) list $(UNIT) | grep -v -e '/cmd/' -e '/cli$$') # linked, or for those alone
	chrt --idle 0 env $(LAVISH) $(VET)

unit: build
	@scripts/setup test
	@scripts/images $(IMAGES) busybox
	$(LAVISH) $(VET)
	$(COMPILE) test -p $$(n=$$(nproc); echo $$((n > 4 ? n : 4))) $(RACE) -ldflags '-s -w' $(ASIDE) -vet=off -timeout 8m $(UNIT)

# A hundred thousand lives of a project on a simulated machine, other ones each
# time, without the race detector; `make test` lives as many that are always the
# same. `make soak` lives a million. What has nothing for the race detector to
# see, and is slow with it, is done here as well.
LIVES := $(COMPILE) test $(ASIDE) -vet=off -count=1 -timeout 1h -run '^(TestLives|TestUpTwice|TestEveryAttribute|Test(Corpus)?RoundTrip|TestConformsAgrees)$$' ./scheduler ./compose
lives: modules
	GANTRY_LIVES=100000 $(LIVES)

soak: modules
	GANTRY_LIVES=1000000 $(LIVES) -v

scenarios: build
	@scripts/setup test
	@scripts/images $(IMAGES) busybox debian golang
	@scripts/images $(IMAGES) shop
	GANTRY_SCRATCH=$$(scripts/scratch) $(COMPILE) test $(ASIDE) -vet=off -timeout 12m ./tests/...

# A hundred clients for three minutes. `make test` does the same for seconds.
load: build
	@scripts/setup test
	@scripts/images $(IMAGES) busybox
	GANTRY_LOAD=3m $(GO) test -count=1 -timeout 12m -v -run 'TestLoad$$' ./tests

# Kills the daemon fifty times at work. `make test` does it ten times.
wholeness: build
	@scripts/setup test
	@scripts/images $(IMAGES) busybox
	GANTRY_KILLS=50 $(GO) test -count=1 -timeout 12m -v -run 'TestWholeness$$' ./tests

# Three hundred kills and losses over three projects. `make test` has a few.
chaos: build
	@scripts/setup test
	@scripts/images $(IMAGES) busybox
	GANTRY_CHAOS=300 $(GO) test -count=1 -timeout 30m -v -run 'TestChaos$$' ./tests

# Turns round every branch of the planner and expects its tests to notice.
mutate: modules
	$(GO) run ./tests/mutate

bench: build
	@scripts/setup bench
	@scripts/images $(IMAGES) busybox
	$(GO) run ./tests/bench

# Asks Debian's dockerd again what tests/recorded compares gantry with.
record: modules
	@scripts/setup bench
	@scripts/images $(IMAGES) busybox
	$(GO) run ./tests/recorded/record

# A minute for each target.
fuzz: modules
	@scripts/fuzz 60s

# The rules and their reasons are in .golangci.yml.
lint:
	@scripts/setup build
	GOFLAGS= $(GO) run $(LINTER) run --build-tags seccomp ./...

fmt:
	gofmt -w $$(git ls-files '*.go')

install: build
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/bin $(BIN)/gantry $(BIN)/gantryd $(BIN)/gantry-runtime $(BIN)/gantry-registry
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d $(DESTDIR)$(PREFIX)/share/man/man1
	$(BIN)/gantry completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/gantry
	$(BIN)/gantry completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_gantry
	$(BIN)/gantry completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/gantry.fish
	$(BIN)/gantry man $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(DESTDIR)/etc/systemd/system
	sed 's|@PREFIX@|$(PREFIX)|' packaging/gantryd.service > $(DESTDIR)/etc/systemd/system/gantryd.service

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/gantry $(DESTDIR)$(PREFIX)/bin/gantryd $(DESTDIR)$(PREFIX)/bin/gantry-runtime $(DESTDIR)$(PREFIX)/bin/gantry-registry
	rm -f $(DESTDIR)$(PREFIX)/share/bash-completion/completions/gantry $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_gantry \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/gantry.fish $(DESTDIR)$(PREFIX)/share/man/man1/gantry*.1
	rm -f $(DESTDIR)/etc/systemd/system/gantryd.service

clean:
	rm -rf $(BIN) build
