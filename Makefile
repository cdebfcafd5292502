# make demo    two diskless virtual nodes boot from this machine, live
# make check   format, lint, types, all tests
# make bench   measure against dnsmasq, nginx and Kea, side by side
# make install put bootnoded on this machine (as root); make uninstall takes it away

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# What the server needs (and so images/headnode), then its image builder, then what the lab boots
# nodes with, then what only tests use.
SERVER_PACKAGES := python3-venv ipxe
BUILD_PACKAGES  := kmod mmdebstrap dnf rpm squashfs-tools erofs-utils zstd xz-utils
LAB_PACKAGES    := qemu-system-x86 vde2 ovmf iproute2 util-linux procps
TEST_PACKAGES   := kea-admin isc-dhcp-client dhcpcd-base atftp curl tftp-hpa tshark dnsmasq-base \
                   ethtool shellcheck busybox-static cpio createrepo-c gpg gpg-agent systemd-boot-efi \
                   qemu-system-arm qemu-efi-aarch64

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# The unit in systemd/ names this folder too.
PREFIX  := /opt/bootnode
# What is kept there, so that an installed bootnode can build images that have bootnode in them.
SOURCES := CHANGELOG.md LICENSE Makefile README.md pyproject.toml bootnode config docs images systemd
# `make install WHEELS=DIR` fetches nothing: bootnode and all it needs are wheels in DIR, and the
# packages that the server needs are there; it builds images only where the others are too.
WHEELS  :=
CONFDIR := /etc/bootnode
LIBDIR  := /usr/local/lib
BINDIR  := /usr/local/bin

# Installs what is missing of $(1), quietly and without a question. The image builder downloads the
# kernel as a package, so the lists of packages must be there even if nothing is missing.
define ensure
	@missing=; for package in $(1); do \
		dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' \
			|| missing="$$missing $$package"; done; \
	if [ -n "$(WHEELS)" ]; then \
		[ -z "$$missing" ] && exit 0; \
		echo "with WHEELS nothing is fetched: install$$missing first" >&2; exit 1; fi; \
	if [ -n "$$missing" ] || ! apt-cache show linux-image-amd64 >/dev/null 2>&1; then \
		$(SUDO) apt-get update -qq; fi; \
	[ -z "$$missing" ] || { echo "installing$$missing"; \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive \
			apt-get install -qq -y --no-install-recommends $$missing >/dev/null; }
endef

.PHONY: setup demo check test bench install uninstall clean

setup: $(VENV)/installed
	$(call ensure,$(LAB_PACKAGES) $(TEST_PACKAGES))

$(VENV)/installed: pyproject.toml
	$(call ensure,$(SERVER_PACKAGES) $(BUILD_PACKAGES))
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup
	$(SUDO) $(BIN)/bootnode image build failsafe -c config/bootnoded.yaml --state-dir .lab/state
	$(SUDO) $(BIN)/bootnode lab demo -c config/bootnoded.yaml --state-dir .lab/state \
		--dir .lab/run node-000 node-001:uefi

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(SUDO) $(BIN)/pytest -n 2 --dist loadfile

bench: setup
	$(SUDO) $(BIN)/python -m benchmarks.boot
	$(SUDO) $(BIN)/python -m benchmarks.image
	$(SUDO) $(BIN)/python -m benchmarks.dhcp

install:
	$(call ensure,$(SERVER_PACKAGES) $(if $(WHEELS),,$(BUILD_PACKAGES)))
	$(PYTHON) -m venv $(PREFIX)
ifeq ($(WHEELS),)
	$(PREFIX)/bin/pip install --quiet --disable-pip-version-check .
else
	$(PREFIX)/bin/pip install --quiet --disable-pip-version-check --no-index --force-reinstall \
		--find-links $(WHEELS) $(WHEELS)/bootnode-*.whl
endif
	[ $(CURDIR) -ef $(PREFIX)/src ] || { rm -rf $(PREFIX)/src && install -d $(PREFIX)/src && \
		cp -r $(SOURCES) $(PREFIX)/src; }
	find $(PREFIX)/src -name __pycache__ -prune -exec rm -r {} +
	install -d $(CONFDIR) $(BINDIR) $(LIBDIR)/systemd/system $(LIBDIR)/sysusers.d $(LIBDIR)/tmpfiles.d
	for file in bootnoded.yaml nodes.yaml; do \
		[ -e $(CONFDIR)/$$file ] || install -m 644 config/$$file $(CONFDIR)/$$file; done
	ln -sf $(PREFIX)/bin/bootnode $(PREFIX)/bin/bootnoded $(BINDIR)/
	install -m 644 systemd/bootnoded.service $(LIBDIR)/systemd/system/bootnoded.service
	install -m 644 systemd/sysusers.conf $(LIBDIR)/sysusers.d/bootnode.conf
	install -m 644 systemd/tmpfiles.conf $(LIBDIR)/tmpfiles.d/bootnode.conf
	systemd-sysusers bootnode.conf
	systemd-tmpfiles --create bootnode.conf
	[ ! -d /run/systemd/system ] || systemctl daemon-reload
	@echo "installed. Edit $(CONFDIR)/bootnoded.yaml and nodes.yaml, then:"
	@echo "  bootnode image build failsafe && bootnode check && systemctl enable --now bootnoded"
	@echo "Was it running already? systemctl restart bootnoded"

uninstall:
	[ ! -d /run/systemd/system ] || systemctl disable --now bootnoded || true
	rm -rf $(PREFIX)
	rm -f $(BINDIR)/bootnode $(BINDIR)/bootnoded $(LIBDIR)/systemd/system/bootnoded.service \
		$(LIBDIR)/sysusers.d/bootnode.conf $(LIBDIR)/tmpfiles.d/bootnode.conf
	[ ! -d /run/systemd/system ] || systemctl daemon-reload
	@echo "uninstalled. Yours to keep or remove: $(CONFDIR), /var/lib/bootnode, the user bootnode"

clean:
	$(SUDO) rm -rf $(VENV) .lab .build .pytest_cache .mypy_cache .ruff_cache
