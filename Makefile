# The targets a person calls. Each is short; the work is in deploy/ and integration/.

PREFIX  ?= /usr/local
DESTDIR ?=
RELEASE ?= trixie
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

OUT := out
export PATH := $(shell deploy/go.sh 2>/dev/null || echo /nonexistent):$(PATH)
# libvirt is loaded at run time: one file runs with every libvirt from 8.2 on,
# whichever it was built beside, and building needs none. Without the tag, as by
# "go test ./libvirt", it is linked: that wants libvirt-dev and pkg-config.
export GOFLAGS := $(GOFLAGS) -tags=libvirt_dlopen

.DEFAULT_GOAL := help
.PHONY: help deps go build guest peers install image uninstall demo test unit integration distro kvm bench soak conformance k8s overhead clean

help: ## show this list
	@echo "containerd-shim-uni: containers as unikernel VMs. Targets:"
	@sed -n 's/^\([a-z0-9]*\):.*## /  \1\t/p' Makefile | expand -t 15

deps: ## install the Debian packages that are missing (root)
	@deploy/deps.sh

go:
	@deploy/go.sh >/dev/null

build: go deps ## build the programs into out/bin
	@mkdir -p $(OUT)/bin
	@CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)" \
		-o $(OUT)/bin ./shim/cmd/containerd-shim-uni-v1
	@go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)" \
		-o $(OUT)/bin ./shim/cmd/uni-shim ./builder/cmd/uni

guest: go deps ## build the guest's kernel (once, about five minutes) and its PID 1 into out/guest
	@unikernel/linux/kernel/build.sh $(OUT)/guest
	@CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w" -o $(OUT)/guest/uni-init ./unikernel/linux/cmd/uni-init
	@go run -buildvcs=false ./unikernel/linux/cmd/mkinitrd -o $(OUT)/guest/initrd.img $(OUT)/guest/uni-init
	@VERSION="$(VERSION)" deploy/record.sh $(OUT)/guest

peers: go deps
	@integration/peers.sh

install: build guest ## install programs, kernel and configuration (DESTDIR, PREFIX=/usr/local)
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" deploy/install.sh

image: build guest ## the image by which a DaemonSet installs the runtime on nodes, out/uni-node.tar: IMAGE=REFERENCE
	@CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)" -o $(OUT)/node/uni ./builder/cmd/uni
	@go run -buildvcs=false ./deploy/cmd/nodeimage -o $(OUT)/uni-node.tar -entry $(OUT)/node/uni $(if $(IMAGE),-name "$(IMAGE)")

uninstall: ## remove what install put there, but not the configuration
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" deploy/uninstall.sh

demo: install ## from nothing to a container in a VM, with every step shown
	@deploy/demo.sh

test: build guest peers ## every test: unit, QEMU, against containerd 1.6, 1.7 and 2.x, on Debian 13, under KVM (root)
	@integration/run.sh house unit qemu integration distro kvm

unit: go deps ## format, vet, lint and unit tests (no root, no QEMU)
	@integration/run.sh house unit

integration: build guest peers ## only the tests against real containerd and QEMU (root)
	@integration/run.sh integration

distro: build guest ## install, demo and tests on RELEASE=trixie, in a tree of its own (root)
	@integration/distro.sh $(RELEASE)

kvm: build guest peers ## test under KVM in a machine that has it by emulation (root)
	@go run -buildvcs=false ./integration/cmd/kvm

bench: build guest peers ## measure against runc and print a table: ONLY=pods PODS=30 (root)
	@go run -buildvcs=false ./integration/bench $(if $(ONLY),-only "$(ONLY)") $(if $(PODS),-pods $(PODS))

soak: build guest peers ## let many containers live, some die, and count what goes wrong: N=200 SEED= ONLY= RUNTIME= (root)
	@go run -buildvcs=false ./integration/cmd/soak -n $(or $(N),200) $(if $(SEED),-seed $(SEED)) $(if $(ONLY),-only "$(ONLY)") $(if $(RUNTIME),-runtime $(RUNTIME))

conformance: build guest peers ## tests that others wrote for runtimes, on runc and on this one: SUITE=client,critest,nerdctl RUN=REGEXP SANDBOX_API=1 (root, an hour)
	@go run -buildvcs=false ./integration/cmd/conformance $(if $(SUITE),-suite "$(SUITE)") $(if $(RUN),-run "$(RUN)") $(if $(SANDBOX_API),-sandbox-api)

k8s: build guest peers ## a Kubernetes node, built once, and what pods do on runc and on this runtime: RUN=REGEXP (root, half an hour)
	@integration/k8s.sh
	@go run -buildvcs=false ./integration/cmd/k8s $(if $(RUN),-run "$(RUN)")

overhead: build guest peers ## what an idle pod takes on the host: the overhead of deploy/kubernetes/runtimeclass.yaml (root)
	@integration/k8s.sh
	@go run -buildvcs=false ./integration/cmd/k8s -overhead

clean: ## remove out/ (the kernel's cache under ~/.cache/containerd-shim-uni stays)
	@rm -rf $(OUT)
