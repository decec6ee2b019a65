# SPDX-License-Identifier: Apache-2.0
# Every target does its own set-up: on a fresh Debian 12/13 or Fedora with Rust, any line below works alone.
# Cargo is asked for the whole workspace wherever that is the same work: with -p the features of the dependencies are
# others, and they are built again.

PREFIX  ?= /usr
BINDIR  ?= $(PREFIX)/bin
MANDIR  ?= $(PREFIX)/share/man
UNITDIR ?= $(PREFIX)/lib/systemd/system
GENERATORDIR ?= $(PREFIX)/lib/systemd/system-generators
DRACUTDIR ?= $(PREFIX)/lib/dracut/modules.d
BASHDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR  ?= $(PREFIX)/share/zsh/site-functions
FISHDIR ?= $(PREFIX)/share/fish/vendor_completions.d
TARGET  := $(or $(CARGO_TARGET_DIR),target)
# The agent as an initramfs carries it: stripped, and without the software TPM's address parser.
DIST    := $(TARGET)/dist/trustee-agent

# Where the other programs are that packages take.
PROGRAMS ?= $(TARGET)/release

# Installs the completions of a program: its name, and what prints them.
define completions
	install -d $(addprefix $(DESTDIR),$(BASHDIR) $(ZSHDIR) $(FISHDIR))
	$(2) bash >$(DESTDIR)$(BASHDIR)/$(1)
	$(2) zsh >$(DESTDIR)$(ZSHDIR)/_$(1)
	$(2) fish >$(DESTDIR)$(FISHDIR)/$(1).fish
	chmod 0644 $(addprefix $(DESTDIR),$(BASHDIR)/$(1) $(ZSHDIR)/_$(1) $(FISHDIR)/$(1).fish)
endef

# How many machines the operator is measured with, how many nodes come at once, and how many MiB of an image refvals.
MACHINES ?= 10000
NODES ?= 1000
IMAGE_MIB ?= 1024

.PHONY: help setup build test vm-test operator-test demo bench bench-boot fuzz fuzz-smoke fuzz-long lint dist install install-files \
	install-completions-files \
	install-refvals install-refvals-files install-operator install-operator-files programs deb rpm

help:
	@echo 'make demo     see it work: software TPM, laboratory KBS, a LUKS2 volume; bind, unlock, tamper, refuse'
	@echo 'make test     everything that needs neither a virtual machine nor a cluster'
	@echo 'make vm-test  machines that really boot, as root; STORY=reboot runs one of vm-tests/tests (several: in quotes)'
	@echo '              as many at a time as there are processors, or SHEEPFOLD_JOBS'
	@echo 'make operator-test   the operator on a real etcd and kube-apiserver: KUBECONFIG, or KUBEBUILDER_ASSETS'
	@echo 'make bench    size, memory, time, round trips -> docs/performance.md; PEER_BIN=dir adds other programs'
	@echo 'make bench-boot  what the agent adds to a first boot and to a reboot, as root -> docs/performance.md'
	@echo 'make fuzz     libFuzzer on every parser of foreign bytes, TIME=60 seconds each, TARGETS="..." for some'
	@echo 'make lint     formatting, clippy, dependency policy'
	@echo 'make dist     the agent as an initramfs carries it -> $(DIST)'
	@echo 'make install  that agent, its Clevis links, its dracut module, its manual -> $$(DESTDIR)$(PREFIX)'
	@echo 'make install-refvals  the program refvals and its manual; install-operator: sheepfold-operator'
	@echo 'make deb      Debian packages of all programs -> $(TARGET)/deb'
	@echo 'make rpm      RPM packages of all programs -> $(TARGET)/rpm'
	@echo 'make setup    only install what the others need'

setup:
	@scripts/setup

build: setup
	cargo build --locked --workspace --bins

# The black-box tests start the built programs, so those come first. Stories of machines are ignored here.
test: build
	cargo test --locked --workspace

# Its own target: a boot in software emulation takes a minute on a quiet machine. The trees and images that it makes stay
# in $(TARGET)/cache, consoles and journals in $(TARGET)/vm-test.
vm-test: build dist
	@scripts/setup vm
	@$(TARGET)/debug/stories $(STORY)

# On a real API server; scripts/operator-test says where it looks for one.
CLUSTER_API := $(TARGET)/cluster-api.json
operator-test: build
	cargo run --locked -q --manifest-path operator/tests/cluster-api/Cargo.toml --target-dir $(TARGET)/cluster-api >$(CLUSTER_API)
	@SHEEPFOLD_CLUSTER_API=$(abspath $(CLUSTER_API)) scripts/operator-test cargo test --locked --workspace --test kubernetes --test deploy --test beside -- --test-threads 4

demo: build
	@$(TARGET)/debug/demo

# Two builds of the agent: what is installed, and one that can speak to a software TPM and be measured.
bench: build dist
	cargo build --locked --release -p trustee-agent
	cargo build --locked --release -p refvals
	cargo build --locked --workspace --example scale --example converge --example storm --example layout
	$(TARGET)/debug/examples/scale $(MACHINES) > $(TARGET)/scale.md
	echo >> $(TARGET)/scale.md
	scripts/operator-test $(TARGET)/debug/examples/converge $(MACHINES) >> $(TARGET)/scale.md
	echo >> $(TARGET)/scale.md
	$(TARGET)/debug/examples/storm $(NODES) >> $(TARGET)/scale.md
	$(TARGET)/debug/examples/layout $(TARGET)/cache/layout-$(IMAGE_MIB) $(IMAGE_MIB)
	@$(TARGET)/debug/bench --dist $(DIST) --agent $(TARGET)/release/trustee-agent --operator $(TARGET)/scale.md \
		--refvals $(TARGET)/release/refvals --layout $(TARGET)/cache/layout-$(IMAGE_MIB) \
		$(if $(PEER_BIN),--peer $(PEER_BIN)) $(BENCH_ARGS)

# Of one processor: what a second one spends on waiting for the first depends on the host.
bench-boot: build dist
	@scripts/setup vm
	@SHEEPFOLD_PROCESSORS=1 $(TARGET)/debug/boot-cost

TIME ?= 60
TARGETS ?=

fuzz: setup
	scripts/fuzz $(TIME) $(TARGETS)

# Without libFuzzer, on any toolchain: malformed cases, seeds, then mutated seeds for TIME seconds in all.
FUZZ := --manifest-path fuzz/Cargo.toml --no-default-features
fuzz-smoke: setup
	cp Cargo.lock fuzz/Cargo.lock
	cargo test $(FUZZ) --target-dir $(TARGET) --test targets
	cargo run $(FUZZ) --target-dir $(TARGET) -q --bin mutate -- --seconds $(TIME) $(TARGETS)

# The figures of docs/security.md.
LONG := pin_token pin_header luks2_header tpm_evidence tpm_public volume_record snp_report snp_cert_table tdx_quote hcl_report
fuzz-long: setup
	cp Cargo.lock fuzz/Cargo.lock
	cargo run $(FUZZ) --target-dir $(TARGET) -q --bin mutate -- --cases 1000000 $(LONG)

# Twice: with the software TPM and without. Both times the whole workspace, so that dependencies are built once.
lint: setup
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo fmt --manifest-path operator/tests/cluster-api/Cargo.toml --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --workspace --no-default-features -- -D warnings
	@scripts/check-dependencies

dist: setup
	cargo build --locked --release -p trustee-agent --no-default-features
	@install -D -m 0755 $(TARGET)/release/trustee-agent $(DIST)
	@ls -l $(DIST)

install: dist
	cargo build --locked --release -p sheepfold-completions
	@$(MAKE) --no-print-directory install-files install-completions-files

# What administrators run, and nodes that ask before a reboot: no initramfs carries it.
install-refvals: setup
	cargo build --locked --release -p refvals
	@$(MAKE) --no-print-directory install-refvals-files

install-operator: setup
	cargo build --locked --release -p sheepfold-operator
	@$(MAKE) --no-print-directory install-operator-files

# Builds nothing, for packagers. dracut/installed-files says what comes where.
install-files:
	install -D -m 0755 $(DIST) $(DESTDIR)$(BINDIR)/trustee-agent
	ln -sf trustee-agent $(DESTDIR)$(BINDIR)/clevis-encrypt-trustee
	ln -sf trustee-agent $(DESTDIR)$(BINDIR)/clevis-decrypt-trustee
	install -D -m 0644 -t $(DESTDIR)$(MANDIR)/man1 agent/man/clevis-encrypt-trustee.1
	install -D -m 0644 -t $(DESTDIR)$(MANDIR)/man5 agent/man/agent.toml.5
	install -D -m 0644 -t $(DESTDIR)$(MANDIR)/man8 agent/man/trustee-agent.8
	install -D -m 0644 -t $(DESTDIR)$(UNITDIR) systemd/trustee-*.service systemd/trustee-*.socket
	install -d $(DESTDIR)$(GENERATORDIR)
	ln -sf ../../../bin/trustee-agent $(DESTDIR)$(GENERATORDIR)/trustee-generator
	install -D -m 0755 -t $(DESTDIR)$(DRACUTDIR)/65trustee dracut/65trustee/module-setup.sh
	install -m 0644 -t $(DESTDIR)$(DRACUTDIR)/65trustee dracut/65trustee/quiet-tss.conf dracut/65trustee/default.network \
		dracut/65trustee/attested-config.conf dracut/65trustee/trustee-config.service \
		dracut/65trustee/after-attestation.conf dracut/65trustee/left-out.conf \
		systemd/seal-first.conf

# The agent knows nothing of completions, so that no initramfs pays for them.
install-completions-files:
	$(call completions,trustee-agent,$(PROGRAMS)/sheepfold-completions trustee-agent)

install-refvals-files:
	install -D -m 0755 -t $(DESTDIR)$(BINDIR) $(PROGRAMS)/refvals
	install -D -m 0644 -t $(DESTDIR)$(MANDIR)/man1 refvals/man/refvals.1
	$(call completions,refvals,$(PROGRAMS)/refvals completions)

install-operator-files:
	install -D -m 0755 -t $(DESTDIR)$(BINDIR) $(PROGRAMS)/sheepfold-operator
	ln -sf sheepfold-operator $(DESTDIR)$(BINDIR)/kubectl-sheepfold
	install -D -m 0644 -t $(DESTDIR)$(MANDIR)/man8 operator/man/sheepfold-operator.8
	$(call completions,sheepfold-operator,$(PROGRAMS)/sheepfold-operator completions)

programs: dist
	cargo build --locked --release -p refvals -p sheepfold-operator -p sheepfold-completions

deb: programs
	scripts/package-deb $(TARGET)/release $(TARGET)/deb

rpm: programs
	scripts/package-rpm $(TARGET)/release $(TARGET)/rpm
