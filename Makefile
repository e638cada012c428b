# vprocfs: see README.md. `make help` lists the targets.

GO          ?= go
BINARY      := build/vprocfs
# It includes staticcheck. Built on first use, which takes some minutes.
LINT        := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME    ?= 20s
NFPM        := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.44.0
# Of the packages.
VERSION     ?= 0.1.0

# The time of all files in packages and the image: they have the same bytes each time.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

# A static binary: it runs on any distribution and in an empty image.
export CGO_ENABLED := 0

# Packages whose tests are unit tests, and those of them whose tests mount nothing.
UNITS     := $$($(GO) list ./... | grep -v '/test')
UNMOUNTED := $$($(GO) list ./... | grep -v -e '/test' -e '/fs')

# What depends on the kernel and the cgroup layout most; the same, but long here; survival and healing.
VM_CORE := Runtimes|Podman|ProgramsShow|ProgramsCount|Swap|MeminfoIs|Controller|ShareAPid|Nested|DaemonInA|NoByte|Joins|SmallestLimit|Services|HostReader|PressureIs|LoadavgFollows|StatCounts|CPUFilesAre|Diskstats|WithinAService|HostsPidNames|InitIsFound|HeldFile|Frozen|Lease|UnmountEnds|Sidecar|AnAncestors|CommitLimit|QuotaHides|TimeNamespace
# Vmstat, cgroups, policies and memory nodes; the programs that read them, which start slowly here.
VM_VIEW := VmstatIs|OOMKill|CgroupsLists|Polic|RequestedCPUs|ExplainSays|NodesAre|PagesShow
VM_TOOLS := Agents|AJVM|HtopShows|NUMATools|PagingTools
# In guests of four memory nodes.
VM_NODES := NodesAre|PagesShow|NUMAToolsAgree
VM_LONG := NoCounter|Readers|Languages
# The oldest kernel and the newest.
VM_ENDS := bullseye-security:v2,trixie-backports:v2
VM_LIFE := NobodyNotices|WorkerThatDies|HolderThatIs|UpgradeKeeps|CountersGoOn|HealRepairs|HealReplaces|AttachShows|KernelsExample|RunBinds|Zswap|GivesUp|LXCsOwnHook|AnAborted|ALivingConnection|ForcedUnmount|FirstReadOfAProgram|IDMap

# Of the tests under systemd, what takes the least time: start, log, files, and that restarts are survived.
VM_SYSTEMD := TestSystemd(Start|Package|UnitIs|NobodyNoticesARestart|NobodyNoticesASuspendedHost)/(restart|reload|holder_killed)

# A module of its own, whose go.mod follows that of the daemon.
NRI := cd deploy/nri && export GOFLAGS="$(GOFLAGS) -mod=mod"

# Built by `make test-runtimes`, and kept in build/runtimes.
RUNC := 1.5.3
CONTAINERD := 2.4.2
CRICTL := 1.37.0
RUNTIMES := build/runtimes/.runc-$(RUNC) build/runtimes/.containerd-$(CONTAINERD) build/runtimes/.crictl-$(CRICTL)

.PHONY: build nri manual packages image manifests run quick test test-runtimes race test-survival test-worst test-vm test-vm-gate bench bench-scale bench-units profile lint fuzz clean help root \
  demo-tools test-tools guest-tools bench-tools race-tools

build: ## build build/vprocfs and build/vprocfs-export
	$(GO) build -trimpath -o $(BINARY) ./cmd/vprocfs
	$(GO) build -trimpath -o $(BINARY)-export ./cmd/vprocfs-export

nri: ## build build/vprocfs-nri, the NRI plugin
	$(NRI) && $(GO) build -trimpath -o $(CURDIR)/build/vprocfs-nri .

manual: build ## write the manual pages and the shells' completions to build/manual
	@mkdir -p build/manual
	@for page in vprocfs.1 vprocfs-export.1 vprocfs-policy.5 bash zsh fish; do \
		$(BINARY) manual --release $(VERSION) $$page >build/manual/$$page || exit 1; \
	done
	@gzip -9nkf build/manual/vprocfs.1 build/manual/vprocfs-export.1 build/manual/vprocfs-policy.5

packages: manual ## make the debs and the rpms in build/packages: vprocfs, vprocfs-lxcfs in place of LXCFS, and vprocfs-export
	@rm -rf build/packages && mkdir -p build/packages
	@for package in vprocfs vprocfs-lxcfs vprocfs-export; do \
		printf '%s (%s) unstable; urgency=medium\n\n  * See docs/CHANGELOG.md of the sources.\n\n -- The vprocfs developers <vprocfs@lists.invalid>  %s\n' \
			$$package $(VERSION) "$$(date -uRd @$$SOURCE_DATE_EPOCH)" | gzip -9n >build/packages/$$package.changelog.gz; \
	done
	@for package in vprocfs vprocfs-lxcfs vprocfs-export; do for format in deb rpm; do \
		ARCH=$$($(GO) env GOARCH) VERSION=$(VERSION) $(GO) run $(NFPM) package --config deploy/packages/$$package.yaml --packager $$format --target build/packages/ || exit 1; \
	done; done
	@rm build/packages/*.changelog.gz

image: build nri ## make an OCI image, build/image/vprocfs.tar, for podman load, docker load and ctr images import
	@mkdir -p build/image
	$(GO) run ./deploy/image -binary $(BINARY) -nri $(BINARY)-nri -version $(VERSION) -output build/image/vprocfs.tar

manifests: ## write the manifests for kustomize from the Helm chart, in deploy/kubernetes
	$(GO) run ./deploy/kubernetes

run: root demo-tools build ## show a container with 256 MiB and one CPU next to the host
	@sh test/demo.sh $(BINARY)

quick: root ## vet, and the unit tests that mount nothing: under a minute
	$(GO) vet -tags systemd,runtimes,engines ./...
	$(GO) test -count=1 -timeout 2m $(UNMOUNTED)
	$(NRI) && $(GO) vet ./... && $(GO) test -count=1 -timeout 2m ./...

test: root test-tools ## run all tests (they mount file systems and start containers)
	$(GO) test -count=1 -timeout 35m ./...

race: root race-tools ## run the unit tests of all packages with the race detector
	CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 20m $(UNITS)

test-runtimes: root test-tools nri $(RUNTIMES) ## run containers with the newest runc and containerd, which are built for it
	@cp build/vprocfs-nri build/runtimes/
	$(GO) test -tags runtimes -count=1 -timeout 20m -v -run TestRuntimes ./test

# The tests need no seccomp of runc, and so no libseccomp.
build/runtimes/.runc-$(RUNC):
	@mkdir -p build/runtimes
	GOBIN=$(CURDIR)/build/runtimes CGO_ENABLED=1 $(GO) install github.com/opencontainers/runc@v$(RUNC)
	@touch $@

build/runtimes/.containerd-$(CONTAINERD):
	@mkdir -p build/runtimes
	for program in containerd containerd-shim-runc-v2 ctr; do \
		GOBIN=$(CURDIR)/build/runtimes $(GO) install github.com/containerd/containerd/v2/cmd/$$program@v$(CONTAINERD) || exit 1; \
	done
	@touch $@

build/runtimes/.crictl-$(CRICTL):
	@mkdir -p build/runtimes
	GOBIN=$(CURDIR)/build/runtimes $(GO) install sigs.k8s.io/cri-tools/cmd/crictl@v$(CRICTL)
	@touch $@

test-survival: root test-tools ## kill the worker 1000 times and upgrade it 100 times under readers, and under callers, that check all they get
	VPROCFS_SURVIVAL=1000,100 $(GO) test -count=1 -timeout 120m -v -run 'NobodyNotices|NoCallerNotices' ./test

test-worst: root test-tools ## what one container can do to another, in runs of ten seconds
	VPROCFS_WORST=10000 $(GO) test -count=1 -timeout 30m -v -run TheWorst ./test

test-vm: root guest-tools packages ## run the tests on other kernels and cgroup layouts, in QEMU (test/vm/README.md)
	$(GO) run ./test/vm -matrix -tests -swap 256 -timeout 40m
	$(GO) run ./test/vm -matrix -tests -cpus 4 -timeout 10m -run TestBusyTimeIsTheCgroups test
	$(GO) run ./test/vm -matrix -tests -cpus 4 -nodes 4 -timeout 15m -run '$(VM_NODES)' test
	$(GO) run ./test/vm -systemd -tests -timeout 20m

test-vm-gate: root guest-tools packages ## the same in less time, for .ci/run: what depends most on kernel and layout, but for v1
	$(GO) run ./test/vm -hosts $(VM_ENDS) -tests -swap 256 -timeout 30m -run '$(VM_CORE)|$(VM_VIEW)|$(VM_TOOLS)|$(VM_LONG)|$(VM_LIFE)' test
	$(GO) run ./test/vm -hosts bookworm:v2,trixie:v2 -tests -swap 256 -timeout 20m -run '$(VM_CORE)|$(VM_VIEW)' test
	$(GO) run ./test/vm -hosts bookworm:hybrid -tests -swap 256 -timeout 20m -run '$(VM_CORE)|$(VM_VIEW)' test
	$(GO) run ./test/vm -hosts $(VM_ENDS) -tests -timeout 10m initpid fs procvirt/cgroup procvirt/host internal/inject/watch
	$(GO) run ./test/vm -hosts $(VM_ENDS) -tests -timeout 5m internal/syscalls
	$(GO) run ./test/vm -hosts bookworm:v2,trixie:v2 -tests -cpus 4 -timeout 10m -run TestBusyTimeIsTheCgroups test
	$(GO) run ./test/vm -hosts trixie-backports:v2 -tests -cpus 4 -nodes 4 -timeout 10m -run '$(VM_NODES)' test
	$(GO) run ./test/vm -systemd -tests -timeout 10m -run '$(VM_SYSTEMD)'

.PHONY: test-engines
test-engines: root guest-tools ## 100 starts of each container engine of Debian under the watch, in a guest; prints a table (hours without KVM)
	VPROCFS_STARTS=$${VPROCFS_STARTS:-100} $(GO) run ./test/vm -systemd -engines -tests -memory 2048 -timeout 12h

bench: root bench-tools build ## compare with the kernel's files, the floor and LXCFS; writes docs/benchmarks.md
	$(GO) run ./test/bench --out docs/benchmarks.md

bench-scale: root bench-tools build ## a thousand containers that read five files every second, for five minutes
	$(GO) run ./test/bench --parts reach,scale --out docs/benchmarks-scale.md

.PHONY: bench-gate
bench-gate: root bench-tools build ## fail if the daemon is slower than that of the last release by more than a quarter; a minute
	@GO="$(GO)" sh test/bench/gate.sh $(BINARY)

bench-units: ## benchmarks of the packages, with their allocations
	$(GO) test -run '^$$' -bench . -benchmem ./cache ./procvirt/... ./initpid ./fs

profile: root ## CPU and allocation profiles of the daemon under a monitoring agent's reads, in build/profile
	@mkdir -p build/profile
	$(GO) test -run '^$$' -bench BenchmarkMix -benchtime 50000x -o build/profile/vprocfs.test -outputdir build/profile \
	  -cpuprofile cpu.pprof -memprofile allocations.pprof -memprofilerate 1 ./internal/daemon
	$(GO) tool pprof -top -nodecount 25 build/profile/vprocfs.test build/profile/cpu.pprof
	$(GO) tool pprof -sample_index alloc_objects -top -nodecount 15 build/profile/vprocfs.test build/profile/allocations.pprof

lint: ## gofmt, go vet, golangci-lint, and the arrows between the packages
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "gofmt would change:"; echo "$$files"; exit 1; fi
	$(GO) vet -tags systemd,runtimes,engines ./...
	$(GO) run $(LINT) run ./...
	$(NRI) && $(GO) vet ./... && $(GO) run $(LINT) run ./...
	$(GO) test -count=1 -run 'TestPackagesImportOnly|TestBrokenArrows' ./test

fuzz: ## run every fuzz test for FUZZTIME
	@set -e; for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; done

clean: ## remove what was built
	rm -rf build

root:
	@[ "$$(id -u)" = 0 ] || { echo "this target mounts file systems and makes cgroups: run it as root" >&2; exit 1; }

# What the targets need beside Go is installed where it is missing (test/install.sh).
demo-tools:
	@sh test/install.sh demo
test-tools:
	@sh test/install.sh tests
guest-tools:
	@sh test/install.sh guests
bench-tools:
	@sh test/install.sh bench
race-tools:
	@sh test/install.sh race

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20
