# Surmise: `make help` lists what there is. Every target that builds does the set-up first.

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
BUILD   := go build -ldflags '-X main.version=$(VERSION)'
# What is tested once more with cgo off: it must work without, or has another implementation there.
PURE    := ./artifact \
           ./coordinator \
           ./coordinator/queue \
           ./video/source \
           ./video/header \
           ./trainer/checkpoint/... \
           ./trainer/cpu/... \
           ./trainer/xla/pjrt
# What is tested once more with the race detector: what goroutines share, of what needs neither OpenCV, which would be
# compiled again, nor the client of Kubernetes.
RACED   := ./artifact \
           ./coordinator \
           ./coordinator/auth \
           ./coordinator/joblog \
           ./coordinator/launch \
           ./coordinator/launch/inproc \
           ./coordinator/launch/slurm \
           ./coordinator/queue/... \
           ./coordinator/sweep \
           ./video/wire \
           ./video/source \
           ./video/remote \
           ./trainer/cpu \
           ./trainer/parallel/... \
           ./trainer/xla/pjrt
CONTROL := bin/kubernetes/kube-apiserver bin/kubernetes/kube-controller-manager bin/kubernetes/kube-scheduler

.PHONY: help setup build mpi demo test test-mpi test-kubernetes test-fresh check lint race pure levels sanitize generate generated bench microbench fuzz chaos gpu-check-bundle clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

setup: ## install what is missing (Debian 12)
	@./deploy/setup.sh

build: setup ## bin/surmise, bin/coordinator (no cgo), bin/worker
	$(BUILD) -o bin/surmise ./cmd/surmise
	CGO_ENABLED=0 $(BUILD) -o bin/coordinator ./cmd/coordinator
	$(BUILD) -o bin/worker ./cmd/worker

mpi: setup ## bin/surmise-mpi, for training one model in several processes
	$(BUILD) -tags mpi -o bin/surmise-mpi ./cmd/surmise

demo: build ## train a small model on made clips, score held-out pairs, write a report
	bin/surmise demo

test: setup check lint generated bin/tools/grpcurl ## everything: checks, all tests, race detector, sanitizers, the build without cgo
	go test ./...
	$(MAKE) race pure levels sanitize test-mpi

check: setup ## vet and gofmt
	@test -z "$$(gofmt -l .)" || { echo 'gofmt wants changes in:'; gofmt -l .; exit 1; }
	go vet ./...

lint: setup bin/tools/golangci-lint ## golangci-lint, staticcheck's checks among it
	bin/tools/golangci-lint run ./...

race: setup ## what goroutines share, under the race detector
	go test -race $(RACED)
	@# Launches beside the caller. The stand-in device casts pointers in ways that the detector's checks refuse.
	go test -race '-gcflags=github.com/gomlx/...=-d=checkptr=0' -run 'Failure|Gathered|CompileOnce|Optional' ./trainer/xla

pure: setup ## what must work without cgo
	CGO_ENABLED=0 go build -o /dev/null ./cmd/coordinator
	CGO_ENABLED=0 go test $(PURE)
	go test -tags nonative ./trainer/cpu/...

levels: setup ## whole steps with the kernels of older processors
	SURMISE_KERNELS=baseline go test ./trainer/cpu ./trainer/model
	if grep -qw avx2 /proc/cpuinfo && grep -qw fma /proc/cpuinfo; then SURMISE_KERNELS=avx2 go test ./trainer/cpu ./trainer/model; fi

test-kubernetes: build $(CONTROL) ## the launcher and the manifests on a private Kubernetes, which the first time is compiled
	./deploy/setup.sh cluster
	SURMISE_KUBERNETES=$(CURDIR)/bin/kubernetes go test -count=1 -p 1 -timeout 60m -v -run OnCluster ./coordinator/launch/kubernetes ./deploy/kubernetes

test-fresh: build ## the programs in a fresh Debian, set up as the images are (root)
	./deploy/setup.sh fresh
	./deploy/fresh.sh /var/tmp/surmise-fresh

sanitize: setup ## the native kernels up to AVX2 under the address and the undefined-behaviour sanitizer
	CGO_CFLAGS='-O1 -g' go test -asan -tags sanitize ./trainer/cpu/kernel
	CGO_CFLAGS='-O1 -g -fsanitize=undefined -fno-sanitize-recover=all' CGO_LDFLAGS=-fsanitize=undefined go test -tags sanitize ./trainer/cpu/kernel

# --oversubscribe: more processes than cores; a test may be root's.
MPIRUN := env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe

test-mpi: setup ## what needs several processes under MPI
	go vet -tags mpi ./trainer/parallel
	go test -tags mpi -c -o bin/parallel.test ./trainer/parallel
	$(MPIRUN) -n 2 bin/parallel.test
	$(MPIRUN) -n 3 bin/parallel.test

generate: ## the Go of the API, from proto/
	sh proto/generate.sh

generated: ## check that the committed code is what `make generate` writes
	@before=$$(find proto -name '*.go' | sort | xargs sha256sum) && sh proto/generate.sh && \
	after=$$(find proto -name '*.go' | sort | xargs sha256sum) && \
	test "$$before" = "$$after" || { echo 'proto/: make generate changed the generated code; commit it'; exit 1; }

bench: build ## training speed on this machine beside PyTorch's, where that is installed
	go run ./bench/compare

microbench: setup ## the benchmarks of the packages
	go test -run '^$$' -bench . ./...

# Making an input that is new smaller may take a minute by default, in which nothing else is tried.
FUZZTIME ?= 20s
fuzz: setup ## each fuzz test for FUZZTIME (20s)
	@grep -ro --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed 's/:func / /' | while read -r file name; do \
		go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "$$(dirname "$$file")" || exit 1; done

ROUNDS ?= 100
SEED ?= 0
TOGETHER ?= 4
chaos: setup ## ROUNDS (100) small systems that are killed, cut off and filled up; SEED=N repeats one
	go test ./cmd/systemtest/chaos -run '^TestChaos$$' -count 1 -v -timeout 0 -parallel $(TOGETHER) -args -rounds $(ROUNDS) -seed $(SEED) $(CHAOS)

gpu-check-bundle: setup ## bin/gpu-check: what checks and times this version on a machine with a GPU
	sh deploy/gpu/build.sh

clean: ## remove bin/
	rm -rf bin

# The version is what clients are told; the modules are those of tools/kubernetes/go.mod. kubectl is built on demand.
bin/kubernetes/%: tools/kubernetes/go.mod tools/kubernetes/go.sum
	CGO_ENABLED=0 go build -C tools/kubernetes -trimpath -o $(CURDIR)/$@ \
		-ldflags '-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36' k8s.io/kubernetes/cmd/$(@F)

bin/tools/golangci-lint: tools/go.mod tools/go.sum
	go build -C tools -o $(CURDIR)/$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

bin/tools/grpcurl: tools/go.mod tools/go.sum
	go build -C tools -o $(CURDIR)/$@ github.com/fullstorydev/grpcurl/cmd/grpcurl
