"""bootnoded.yaml: how this server serves.

`load_config` reads the file and returns a frozen `Config`, or raises one ConfigError that holds
every problem found, each with its file, line and column. Paths are relative to the file.
"""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from bootnode.addresses import AddressRange
from bootnode.errors import ConfigError
from bootnode.yamlmarks import load_yaml, validate

DEFAULT_CONFIG = Path("/etc/bootnode/bootnoded.yaml")
SOCKET_NAME = "bootnoded.sock"

_DURATION = re.compile(r"(\d+)\s*([smhd]?)")
_UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
# RFC 2131 leaves the floor to us. A node fetching a big image does not renew, so an address must
# outlive the slowest boot.
LEASE_TIME_MIN_S = 120
LEASE_TIME_MAX_S = 30 * 86400
_IMAGE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
DOMAIN = re.compile(r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.?)+", re.IGNORECASE)


def parse_duration(value: object) -> int:
    """Seconds from `90`, `90s`, `10m`, `1h` or `1d`.

    Raises:
        ValueError: it is none of these.
    """
    match = _DURATION.fullmatch(str(value).strip())
    if match is None or isinstance(value, bool):
        raise ValueError(f"'{value}' is not a duration (want 90s, 10m, 1h or 1d)")
    return int(match[1]) * _UNIT_SECONDS[match[2]]


def parse_ipv4(value: object) -> IPv4Address:
    """An IPv4 address from text.

    Raises:
        ValueError: it is not one.
    """
    if isinstance(value, str):
        try:
            return IPv4Address(value)
        except ValueError:
            pass
    raise ValueError(f"'{value}' is not an IPv4 address (want 10.77.0.1)")


def one_or_many(value: object) -> object:
    """Let a list with one entry be written without brackets."""
    return value if isinstance(value, list | tuple) else (value,)


def _parse_range(value: object) -> AddressRange:
    return value if isinstance(value, AddressRange) else AddressRange.parse(str(value))


def check_image_name(name: str) -> str:
    """An image's name, which becomes a folder and a part of URLs.

    Raises:
        ValueError: it cannot be one.
    """
    if not _IMAGE_NAME.fullmatch(name):
        raise ValueError(
            f"'{name}' cannot be an image's name (want a-z, 0-9, '.', '_' and '-', 63 at most)"
        )
    return name


def check_kernel_arg(value: str) -> str:
    """A kernel argument that iPXE passes on as it stands: its script language has no quoting.

    Raises:
        ValueError: iPXE would make something else of it.
    """
    if not value or not value.isprintable() or not value.isascii() or value != value.strip():
        raise ValueError(f"{value!r} is not a kernel argument (want printable ASCII)")
    for token in value.split():
        if token.startswith("#") or token in ("||", "&&", ";"):
            raise ValueError(f"'{token}' would end the line in iPXE (want it out of kernel_args)")
    if "${" in value or value.endswith("\\"):
        raise ValueError(f"'{value}' would be expanded by iPXE (want it without '${{' or '\\')")
    return value


Ipv4 = Annotated[IPv4Address, BeforeValidator(parse_ipv4)]
# 63 addresses of 4 bytes are what one DHCP option can hold.
Ipv4List = Annotated[tuple[Ipv4, ...], BeforeValidator(one_or_many), Field(max_length=63)]
ImageName = Annotated[str, AfterValidator(check_image_name)]
KernelArgs = Annotated[
    tuple[Annotated[str, AfterValidator(check_kernel_arg)], ...], BeforeValidator(one_or_many)
]
Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseModel):
    """Base of everything a person writes: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True
    )


class NetworkSettings(Settings):
    """One network that this server serves, by the interface that leads to it."""

    interface: Annotated[str, Field(min_length=1, max_length=15)]
    """The interface's name, such as `eth0`."""
    dhcp: Literal["full", "proxy", "off"]
    """`full`: we give addresses. `proxy`: another server does, we add the boot. `off`: neither."""
    pool: Annotated[AddressRange, BeforeValidator(_parse_range)] | None = None
    """Addresses for nodes without an `ip`, such as `10.77.0.100-10.77.0.199` (full only)."""
    lease_time: Annotated[
        int,
        BeforeValidator(parse_duration),
        Field(ge=LEASE_TIME_MIN_S, le=LEASE_TIME_MAX_S),
    ] = 3600
    """How long an address is lent."""
    router: Ipv4 | None = None
    """The default gateway given to nodes."""
    dns: Ipv4List = ()
    """Name servers given to nodes."""
    domain: str | None = None
    """The domain name given to nodes."""
    ntp: Ipv4List = ()
    """Time servers given to nodes."""
    mtu: Annotated[int, Field(ge=576, le=65535)] | None = None
    """The interface MTU given to nodes, in bytes."""

    @field_validator("domain")
    @classmethod
    def _check_domain(cls, value: str | None) -> str | None:
        if value is not None and not DOMAIN.fullmatch(value):
            raise ValueError(f"'{value}' is not a domain name (want lab.example)")
        return value

    @model_validator(mode="after")
    def _pool_needs_full(self) -> NetworkSettings:
        if self.pool is not None and self.dhcp != "full":
            raise ValueError(f"a pool goes with `dhcp: full`, not with `dhcp: {self.dhcp}`")
        return self


class HttpSettings(Settings):
    """The web server: boot scripts, images, stage reports, status page."""

    port: Port = 8080
    """TCP port, on the address of each network and on loopback."""


class TftpSettings(Settings):
    """The TFTP server."""

    port: Port = 69
    """UDP port, on the address of each network. Firmware asks no other than 69."""


class Config(Settings):
    """bootnoded.yaml as a whole."""

    state_dir: Path = Path("/var/lib/bootnode")
    """Where leases, built images and boot history live."""
    nodes: Path = Path("nodes.yaml")
    """The node table: a file, or a folder of *.yaml."""
    files: Path | None = None
    """A folder of your own, read-only by TFTP and, under /files/, by HTTP."""
    networks: Annotated[tuple[NetworkSettings, ...], Field(min_length=1)]
    """The networks served; at least one."""
    http: HttpSettings = HttpSettings()
    tftp: TftpSettings = TftpSettings()

    @field_validator("networks")
    @classmethod
    def _interfaces_differ(
        cls, networks: tuple[NetworkSettings, ...]
    ) -> tuple[NetworkSettings, ...]:
        names = [network.interface for network in networks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"interface {', '.join(twice)} is listed twice (want each once)")
        return networks

    @property
    def socket(self) -> Path:
        """The Unix socket on which commands reach the running daemon."""
        return self.state_dir / SOCKET_NAME

    @property
    def node_secret(self) -> Path:
        """What machine ids and host keys of nodes are made from."""
        return self.state_dir / "node-secret"

    @property
    def images(self) -> Path:
        """The folder of built images."""
        return self.state_dir / "images"


def load_config(path: Path, *, state_dir: Path | None = None) -> Config:
    """Read bootnoded.yaml; `state_dir` overrides the file's own.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    document = load_yaml(path)
    config = validate(Config, document)
    base = path.absolute().parent
    changes: dict[str, Any] = {
        "state_dir": (state_dir or base / config.state_dir).absolute(),
        "nodes": base / config.nodes,
        "files": base / config.files if config.files is not None else None,
    }
    return config.model_copy(update=changes)


def nodes_path(path: Path) -> Path:
    """Where the node table of a bootnoded.yaml with errors is, as far as one can tell."""
    named: object = None
    with suppress(ConfigError):
        named = load_yaml(path).data.get("nodes")
    default: Path = Config.model_fields["nodes"].default
    return path.absolute().parent / (named if isinstance(named, str) else default)
