# telecon: build, try, test, install. `make help` lists everything.
# Cargo knows what to build; this file holds the commands that people and the CI type.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
# Where `make install` puts things; DESTDIR is put before every path, for packagers.
PREFIX ?= $(HOME)/.local
DESTDIR ?=
# A user's own units stand under XDG_DATA_HOME, those for all users under PREFIX.
UNIT_DIR ?= $(if $(filter $(HOME)/.local,$(PREFIX)),$(or $(XDG_DATA_HOME),$(HOME)/.local/share),$(PREFIX)/share)/systemd/user
# The binary to install; when it is not given, a release build is made.
BINARY ?=
# What `make demo` hands to `telecon demo`, such as DEMO="--participants 5".
DEMO ?=
# How many seeds `make simulate` runs, and from which on.
SEEDS ?= 2000
FIRST ?= 0
# What `make bench` hands to scripts/bench, such as BENCH="idle call", or BENCH="--write docs/performance.md".
BENCH ?=
# What `make bench-voice` hands to scripts/bench-voice, such as VOICE="in-process --networks 'clean loss-10'".
VOICE ?=

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	echo '  Variables: PREFIX=$(PREFIX) DESTDIR BINARY DEMO="--participants 5"'

.PHONY: demo
demo: ## a group call of three daemons on this machine, with synthetic voices
	@scripts/setup build
	$(CARGO) build --locked
	$(TARGET_DIR)/debug/telecon demo $(DEMO)

.PHONY: test
test: ## formatting, lints and all tests
	@scripts/setup test
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) test --locked --lib --bins
	$(CARGO) test --locked --doc
	$(CARGO) test --locked --test it -- --skip sound:: --skip pulse:: --skip devices:: --skip recording::
	# What is timed by ear has the machine to itself.
	$(CARGO) test --locked --test it -- sound:: pulse:: devices:: recording:: --test-threads=1
	# What PipeWire's own protocol changes, and nothing else.
	$(CARGO) clippy --locked --lib --features pipewire -- -D warnings
	$(CARGO) test --locked --features pipewire --test it -- pulse::native:: --test-threads=1

.PHONY: simulate
simulate: ## whole calls in virtual time from SEEDS seeds, FIRST and on; with an optimised core
	@scripts/setup test
	TELECON_SEEDS='$(SEEDS)' TELECON_FIRST_SEED='$(FIRST)' $(CARGO) --config 'profile.dev.package.telecon.opt-level=3' \
		--config 'profile.dev.package.telecon.debug-assertions=false' \
		test --locked --lib -- --nocapture sim::random_worlds

.PHONY: soak
soak: ## everything that must be right each time, many times (a few minutes, on a machine that does nothing else)
	@scripts/setup test
	TELECON_SOAK=1 $(CARGO) test --locked --test it -- soak:: --nocapture --test-threads=1
	$(CARGO) test --locked --lib -- leg::tests::measurements --ignored --nocapture --test-threads=1

.PHONY: install
install: ## build a release and install it for this user (PREFIX=~/.local)
	@case '$(PREFIX)' in /*) ;; *) echo "install: PREFIX must be an absolute path and not '$(PREFIX)'" >&2; exit 1 ;; esac
	case '$(PREFIX)' in *[^A-Za-z0-9/._+@-]*)
		echo "install: PREFIX may hold only letters, digits and /._+@-, since it becomes part of a systemd unit" >&2; exit 1 ;;
	esac
	binary='$(BINARY)'
	if [ -z "$$binary" ]; then
		scripts/setup build
		$(CARGO) build --release --locked
		binary='$(TARGET_DIR)/release/telecon'
	fi
	install -D -m 755 "$$binary" '$(DESTDIR)$(PREFIX)/bin/telecon'
	install -d '$(DESTDIR)$(UNIT_DIR)'
	sed 's|%h/.local/bin|$(PREFIX)/bin|' systemd/telecon.service > '$(DESTDIR)$(UNIT_DIR)/telecon.service'
	chmod 644 '$(DESTDIR)$(UNIT_DIR)/telecon.service'
	install -m 644 systemd/telecon.socket '$(DESTDIR)$(UNIT_DIR)/telecon.socket'
	echo 'Installed $(DESTDIR)$(PREFIX)/bin/telecon and telecon.service, telecon.socket in $(DESTDIR)$(UNIT_DIR)'
	case ":$$PATH:" in *':$(PREFIX)/bin:'*) ;; *)
		echo '$(PREFIX)/bin is not in PATH; for this shell: export PATH="$(PREFIX)/bin:$$PATH", and for later ones the same in ~/.profile' ;;
	esac
	echo 'Start it with: systemctl --user daemon-reload && systemctl --user enable --now telecon'

.PHONY: uninstall
uninstall: ## remove what `make install` put in place; identity, contacts and configuration stay
	@rm -f '$(DESTDIR)$(PREFIX)/bin/telecon' '$(DESTDIR)$(UNIT_DIR)/telecon.service' '$(DESTDIR)$(UNIT_DIR)/telecon.socket'
	echo 'Removed the binary and the units. What still runs ends with: systemctl --user stop telecon.socket telecon.service; systemctl --user daemon-reload'

.PHONY: bench
bench: ## measure memory, processor time and call set-up of a release build (docs/performance.md)
	@scripts/setup test
	$(CARGO) build --release --locked
	scripts/bench '$(TARGET_DIR)/release/telecon' $(BENCH)

.PHONY: bench-voice
bench-voice: ## measure how voices arrive over bad networks: PESQ, STOI, delay, bitrate (docs/performance.md)
	@scripts/setup voice
	CARGO='$(CARGO)' scripts/bench-voice $(VOICE)

.PHONY: deny
deny: ## licences, sources, advisories and doubled crates (needs cargo-deny)
	@if ! $(CARGO) deny --version >/dev/null 2>&1; then
		echo 'deny: install it with: cargo install --locked cargo-deny' >&2; exit 1
	fi
	$(CARGO) deny --locked check
