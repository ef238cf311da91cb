# cri-restore: containerd with checkpoint restore through CRI.
# "make" lists the targets. Everything that is built lands in bin/.

GO ?= go

# bin/containerd calls itself v2.4.2+cri-restore.<our version>: build metadata
# of semantic versioning, so it compares equal to the containerd it is.
MODULE = github.com/containerd/containerd/v2
CONTAINERD_VERSION = $(or $(CONTAINERD),$(shell $(GO) list -m -f '{{.Version}}' $(MODULE)))
VERSION ?= $(or $(shell contrib/version.sh),$(error no version))
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null)

# CONTAINERD=v2.4.1 builds and tests with another containerd than that of go.mod, by a copy of go.mod: the environment
# of Go in this module, not in those of the tools.
OTHER_MOD = $(if $(CONTAINERD),bin/containerd-$(CONTAINERD)/go.mod)
HERE = $(if $(CONTAINERD),env GOFLAGS='-mod=mod -modfile=$(CURDIR)/$(OTHER_MOD)')

# Another machine's programs are built into a folder of their own: make dist ARCH=arm64.
HOSTARCH = $(shell $(GO) env GOHOSTARCH)
ARCH ?= $(HOSTARCH)
CROSS = $(filter-out $(HOSTARCH),$(ARCH))
BIN = $(CURDIR)/bin$(if $(CROSS),/$(CROSS))

# The flags of containerd's own Makefile. Versions come from the lines above, so
# Go need not ask git for them.
GOBUILD = $(GO) build -trimpath -buildvcs=false -o $(BIN)/
TAGS = urfave_cli_no_docs
LDFLAGS = -s -w -X $(MODULE)/version.Version=$(CONTAINERD_VERSION)+cri-restore.$(VERSION) \
	-X $(MODULE)/version.Revision=$(REVISION)
STOCK_LDFLAGS = -s -w -X $(MODULE)/version.Version=$(CONTAINERD_VERSION)

TOOLS = contrib/tools
# The version of the module that a folder of contrib/tools pins.
pinned = $(shell $(GO) -C $(TOOLS)/$(1) list -m -f '{{.Version}}' $(2))

# Sets PATH and the folder of the CNI plugins as contrib/deps.sh left them.
ENV = . contrib/env.sh &&
# With TEST_RESULTS=DIR every run also writes its events there, for .ci/run.
GOTEST = $(ENV) $(HERE) $(GO) tool -modfile=$(TOOLS)/gotestsum/go.mod gotestsum --format testname \
	$(if $(TEST_RESULTS),--jsonfile $(TEST_RESULTS)/$@.json) --
# Makes one benchmark or test run only some: BENCH=Restore, TEST=TestRestoreTwice.
BENCH ?= .
TEST ?= .
FUZZTIME ?= 10m
CHAOS_N ?= 200
CHAOS_SEED ?= $(shell date +%s)
SOAK_N ?= 1000

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help deps build build-node build-stock build-test build-old build-kubernetes demo test test-unit test-integration test-kubernetes test-stock test-vm chaos soak race bench bench-plot fuzz lint checkpoint-image stage install dist clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

deps: ## install what is missing: CRIU, CNI plugins, headers, Podman (root; see contrib/deps.sh)
	@contrib/deps.sh

build: build-node ## build containerd with the plugin, shim, ctr, runc, crictl, checkpointctl and our programs into bin/
	cd $(TOOLS)/crictl && CGO_ENABLED=0 $(GOBUILD) -ldflags '-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=$(call pinned,crictl,sigs.k8s.io/cri-tools)' sigs.k8s.io/cri-tools/cmd/crictl
	cd $(TOOLS)/checkpointctl && CGO_ENABLED=0 $(GOBUILD) -ldflags '-s -w' github.com/checkpoint-restore/checkpointctl

# What a node needs, and small programs of ours. containerd and runc call C: for another machine contrib/install/cross.sh
# sets the compiler and the headers.
build-node: $(OTHER_MOD)
	@$(if $(CROSS),contrib/install/cross.sh $(CROSS),pkg-config --exists libseccomp) || { echo 'build: runc needs pkg-config and the headers of libseccomp: run "make deps"' >&2; exit 1; }
	$(TARGET) $(HERE) $(GOBUILD) -tags '$(TAGS)' -ldflags '$(LDFLAGS)' ./contrib/... $(MODULE)/cmd/ctr
	$(TARGET) $(HERE) env CGO_ENABLED=0 $(GOBUILD) -tags '$(TAGS) no_grpc' -ldflags '$(LDFLAGS) -extldflags "-static"' $(MODULE)/cmd/containerd-shim-runc-v2
	cd $(TOOLS)/runc && $(TARGET) $(GOBUILD) -tags 'seccomp $(TAGS)' -ldflags '-s -w' github.com/opencontainers/runc

# The environment of a build for another machine.
TARGET = $(if $(CROSS),env $(shell contrib/install/cross.sh --env $(CROSS)))

ifdef CONTAINERD
$(OTHER_MOD): go.mod go.sum
	mkdir -p $(@D) && cp go.mod go.sum $(@D)/
	$(GO) mod edit -require=$(MODULE)@$(CONTAINERD) $@
endif

build-stock: $(OTHER_MOD) ## build the unchanged containerd of the same version as bin/containerd-stock
	$(HERE) $(GOBUILD)containerd-stock -tags '$(TAGS)' -ldflags '$(STOCK_LDFLAGS)' $(MODULE)/cmd/containerd

# Nothing else may be built with this tag: with it, verification can be switched off from outside.
build-test: $(OTHER_MOD) ## build a containerd whose verification the tests can switch off as bin/test/containerd
	@mkdir -p bin/test
	$(HERE) $(GOBUILD)test/containerd -tags '$(TAGS) cri_restore_test' -ldflags '$(LDFLAGS)' ./contrib/containerd

# The last line of containerd that restores by itself, for comparison.
OLD_VERSION = $(call pinned,containerd-2.3,$(MODULE))
build-old: ## build containerd 2.3 and its shim into bin/OLD_VERSION, for the benchmarks
	cd $(TOOLS)/containerd-2.3 && CGO_ENABLED=0 $(GOBUILD)$(OLD_VERSION)/ -tags '$(TAGS)' -ldflags '-s -w -X $(MODULE)/version.Version=$(OLD_VERSION)' \
		$(MODULE)/cmd/containerd $(MODULE)/cmd/containerd-shim-runc-v2

build-kubernetes: bin/kubelet bin/etcd ## build kubelet, kube-apiserver, kubectl and etcd for make test-kubernetes into bin/ (long, the first time)

# They are built again when the pinned versions change, and at no other time: Go needs some seconds only to see that
# there is nothing to do.
KUBERNETES_VERSION = $(call pinned,kubernetes,k8s.io/kubernetes)
KUBERNETES_LDFLAGS = -s -w $(foreach package,k8s.io/component-base/version k8s.io/client-go/pkg/version,\
	-X $(package).gitVersion=$(KUBERNETES_VERSION) -X $(package).gitMajor=$(subst v,,$(word 1,$(subst ., ,$(KUBERNETES_VERSION)))) \
	-X $(package).gitMinor=$(word 2,$(subst ., ,$(KUBERNETES_VERSION))) -X $(package).gitTreeState=clean)
bin/kubelet bin/kube-apiserver bin/kubectl &: $(TOOLS)/kubernetes/go.mod $(TOOLS)/kubernetes/go.sum
	cd $(TOOLS)/kubernetes && CGO_ENABLED=0 $(GOBUILD) -ldflags '$(KUBERNETES_LDFLAGS)' $(addprefix k8s.io/kubernetes/cmd/,kubelet kube-apiserver kubectl)
	touch bin/kubelet bin/kube-apiserver bin/kubectl
bin/etcd: $(TOOLS)/etcd/go.mod $(TOOLS)/etcd/go.sum
	cd $(TOOLS)/etcd && CGO_ENABLED=0 $(GOBUILD)etcd -ldflags '-s -w' go.etcd.io/etcd/server/v3
	touch bin/etcd

demo: deps build ## checkpoint a container, delete it, restore it from a checkpoint image (root)
	$(ENV) contrib/checkpoint-restore-cri-test.sh

test: deps build build-stock build-test test-unit test-integration ## run all tests (root); CONTAINERD=v2.4.1 with another version than that of go.mod

test-unit: $(OTHER_MOD) ## run the tests that need no daemon, with the race detector
	$(GOTEST) -race -run '$(TEST)' ./plugin/... ./internal/... ./contrib/...

test-integration: $(OTHER_MOD) ## run the tests against the real daemons (root, after deps, build, build-stock and build-test)
	$(GOTEST) -count=1 -timeout 60m -run '$(TEST)' $$($(GO) list ./integration/... | grep -v /integration/kubernetes)

test-kubernetes: deps build build-kubernetes ## run the tests with a kubelet and an API server (root)
	TEST='$(TEST)' TEST_RESULTS='$(TEST_RESULTS)' contrib/checkpoint-restore-kubernetes-test.sh

test-vm: deps build build-stock dist ## install and test in a guest with systemd, cgroup v2 and AppArmor; SUITE="smoke demo part" or all (root; see contrib/vm/test.sh)
	SUITE='$(SUITE)' TEST='$(filter-out .,$(TEST))' TEST_RESULTS='$(TEST_RESULTS)' contrib/vm/test.sh

# A seed says it all: the same one makes the same calls. "make test" has one and few steps.
STOCK_SEED ?= $(shell date +%s)
STOCK_STEPS ?= 600
test-stock: deps build build-stock ## compare with stock containerd, call by call: STOCK_STEPS (600) random ones of STOCK_SEED, and the chosen cases (root)
	$(ENV) $(GO) test -count=1 -v -timeout 4h ./integration/stock -seed $(STOCK_SEED) -steps $(STOCK_STEPS)

chaos: deps build ## kill something at a random moment CHAOS_N (200) times; CHAOS_SEED repeats a run (root)
	$(ENV) CHAOS_SEED=$(CHAOS_SEED) CHAOS_N=$(CHAOS_N) $(GO) test -count=1 -v -timeout 4h -run '^TestChaos$$' ./integration

soak: deps build ## restore SOAK_N (1000) times, eight at a time; prints what containerd holds before and after (root)
	$(ENV) SOAK_N=$(SOAK_N) $(GO) test -count=1 -v -timeout 4h -run '^TestSoak$$' ./integration

race: deps build build-stock build-test ## run the integration tests against a containerd with the race detector; TEST=REGEXP chooses (root)
	mkdir -p bin/race && cp -r bin/test bin/race/ && cp bin/ctr bin/crictl bin/runc bin/restore-pages bin/restore-guard bin/containerd-shim-runc-v2 bin/containerd-stock bin/checkpointctl \
		bin/checkpoint-image bin/podman-archive bin/race/
	$(HERE) $(GOBUILD)race/containerd -race -tags '$(TAGS)' -ldflags '$(LDFLAGS)' ./contrib/containerd
	CRI_RESTORE_BIN=$(CURDIR)/bin/race $(GOTEST) -count=1 -timeout 3h -run '$(TEST)' ./integration

bench: deps build build-stock build-old ## run the benchmarks; BENCH=REGEXP chooses, BENCH_COUNT=N repeats, BENCH_SIZES="MIB ..."; results in bin/bench.json (root)
	$(ENV) BENCH_JSON=$(CURDIR)/bin/bench.json $(GO) test -run '^$$' -bench '$(BENCH)' -benchtime 1x -timeout 120m ./integration/

bench-plot: ## draw bin/bench.json as docs/bench.svg
	$(GO) -C $(TOOLS)/benchplot run . $(CURDIR)/bin/bench.json $(CURDIR)/docs/bench.svg

fuzz: ## run every fuzz target for FUZZTIME (10m); FUZZ="criu:FuzzEntries ..." chooses
	FUZZTIME='$(FUZZTIME)' contrib/fuzz.sh $(FUZZ)

# Whatever a shell reads: by the first line, or by shellcheck's own directive.
SCRIPTS = $(shell git ls-files | xargs grep -lE '^\#!/(usr/bin/env (ba)?sh|bin/(ba)?sh)|^\# shellcheck shell=' | grep -v '\.go$$')

lint: ## gofmt, go vet, shellcheck, golangci-lint
	@command -v shellcheck >/dev/null || { echo 'lint: no shellcheck: install the package of that name' >&2; exit 1; }
	shellcheck -x $(SCRIPTS)
	@unformatted=$$(gofmt -l plugin internal contrib integration); test -z "$$unformatted" || { echo "gofmt: run gofmt -w on:"; echo "$$unformatted"; exit 1; } >&2
	$(GO) vet ./... && $(GO) vet -tags cri_restore_test ./internal/cri
	$(GO) tool -modfile=$(TOOLS)/golangci-lint/go.mod golangci-lint run ./...

checkpoint-image: ## turn a checkpoint archive into an image; ARGS=--help tells how (after build)
	@bin/checkpoint-image $(ARGS)

# Where make install puts what is not below DESTDIR.
PREFIX ?= /opt/cri-restore
DIST = cri-restore-$(VERSION)-linux-$(ARCH)
RUNC_VERSION = $(patsubst v%,%,$(call pinned,runc,github.com/opencontainers/runc))

stage: build-node
	contrib/install/stage.sh $(BIN) $(BIN)/dist/$(DIST) '$(VERSION)' $(ARCH) '$(CONTAINERD_VERSION)+cri-restore.$(VERSION)' '$(RUNC_VERSION)'

install: stage ## install below DESTDIR, as packages want it, or without DESTDIR on this node; PREFIX=/opt/cri-restore (root)
	$(BIN)/dist/$(DIST)/install.sh --prefix=$(PREFIX) $(if $(DESTDIR),--destdir=$(DESTDIR))

dist: stage ## pack what a node needs, with install.sh and uninstall.sh, as bin/dist/cri-restore-VERSION-linux-ARCH.tar.gz (bin/ARCH/dist for another machine)
	tar -C $(BIN)/dist --sort=name --owner=0 --group=0 --numeric-owner --mtime=@$(or $(shell git log -1 --format=%ct 2>/dev/null),0) -cf - $(DIST) | gzip -n >$(BIN)/dist/$(DIST).tar.gz
	cd $(BIN)/dist && sha256sum $(DIST).tar.gz >$(DIST).tar.gz.sha256

clean: ## remove bin/
	rm -rf bin
