"""bootnoded.yaml: how this server serves.

`load_config` reads the file and returns a frozen `Config`, or raises one ConfigError that holds
every problem found, each with its file, line and column. Paths are relative to the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from bootnode.addresses import AddressRange
from bootnode.dhcp.registry import parse_option
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
POOL_SIZE_MAX = 1 << 20
"""Addresses of one network's pool; a byte of memory each."""
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


def _parse_subnet(value: object) -> IPv4Network:
    if isinstance(value, IPv4Network):
        return value
    try:
        return IPv4Network(str(value))
    except ValueError:
        raise ValueError(f"'{value}' is not a subnet (want 10.78.0.0/24)") from None


def parse_options(value: object) -> dict[int, bytes]:
    """DHCP options by code, serialized, from a mapping of names or numbers to values.

    Raises:
        ValueError: it is no mapping.
        ValidationError: everything that is wrong in it, each at its key.
    """
    if not isinstance(value, Mapping):
        raise ValueError(  # noqa: TRY004  # pydantic reports no TypeError
            "want a mapping of option names or numbers to values"
        )
    options: dict[int, bytes] = {}
    errors: list[InitErrorDetails] = []
    for key, given in value.items():
        if isinstance(key, int) and isinstance(given, bytes):
            options[key] = given  # serialized already
            continue
        try:
            code, raw = parse_option(str(key), given)
            if code in options:
                raise ValueError(f"option {code} is here already under another name")
            options[code] = raw
        except ValueError as error:
            # pydantic shows the text for itself; the place is what the reader needs.
            kind = PydanticCustomError("value_error", "{error}", {"error": str(error)})
            errors.append(InitErrorDetails(type=kind, loc=(key,), input=given))
    if errors:
        raise ValidationError.from_exception_data("options", errors)
    return options


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
DhcpOptions = Annotated[Mapping[int, bytes], PlainValidator(parse_options)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseModel):
    """Base of everything a person writes: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True
    )


class ProxyStyle(StrEnum):
    """How a ProxyDHCP offer leads firmware to its boot file (PXE 2.1 section 2.2)."""

    DIRECT = "direct"
    """The offer says: search no boot server, load this file."""
    PORT4011 = "port4011"
    """The offer says only who knows; the client asks port 4011 when it has its address."""


class NetworkSettings(Settings):
    """One network that this server serves: on an interface, or behind relays."""

    interface: Annotated[str, Field(min_length=1, max_length=15)] | None = None
    """The interface that leads to it, such as `eth0`; its address tells the subnet."""
    subnet: Annotated[IPv4Network, BeforeValidator(_parse_subnet)] | None = None
    """Instead of an interface: a subnet that only DHCP relays lead to, such as `10.78.0.0/24`."""
    dhcp: Literal["full", "proxy", "auto", "off"]
    """`full`: we give addresses. `proxy`: another server does, we add the boot. `off`: neither.
    `auto`: `full` if no other server answers when we start, else `proxy`."""
    proxy_style: ProxyStyle = ProxyStyle.DIRECT
    """How ProxyDHCP offers lead firmware to its boot file: `direct` or `port4011`."""
    pool: Annotated[
        tuple[Annotated[AddressRange, BeforeValidator(_parse_range)], ...],
        BeforeValidator(one_or_many),
    ] = ()
    """Addresses for nodes without an `ip`, such as `10.77.0.100-10.77.0.199` (full and auto)."""
    lease_time: Annotated[
        int,
        BeforeValidator(parse_duration),
        Field(ge=LEASE_TIME_MIN_S, le=LEASE_TIME_MAX_S),
    ] = 3600
    """How long an address is lent at most; a client may ask for less."""
    authoritative: bool = True
    """Whether clients with an address that is wrong here are told so (NAK), or met by silence."""
    probe: bool = True
    """Whether a pool address that was never lent is tried by ARP before it is offered."""
    relays: Ipv4List = ()
    """The relays (their giaddr) that may ask for this network; all within our subnets if empty."""
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
    options: DhcpOptions = Field(default_factory=dict)
    """More DHCP options given to nodes, by name or number."""

    @property
    def name(self) -> str:
        """What messages call it: the interface, or the subnet."""
        return self.interface or str(self.subnet)

    @field_validator("domain")
    @classmethod
    def _check_domain(cls, value: str | None) -> str | None:
        if value is not None and not DOMAIN.fullmatch(value):
            raise ValueError(f"'{value}' is not a domain name (want lab.example)")
        return value

    @model_validator(mode="after")
    def _is_somewhere(self) -> NetworkSettings:
        if (self.interface is None) == (self.subnet is None):
            raise ValueError("want `interface`, or `subnet` if only relays lead to it")
        if self.pool and self.dhcp not in ("full", "auto"):
            raise ValueError(
                f"a pool goes with `dhcp: full` or `auto`, not with `dhcp: {self.dhcp}`"
            )
        if "proxy_style" in self.model_fields_set and self.dhcp not in ("proxy", "auto"):
            raise ValueError(
                f"proxy_style goes with `dhcp: proxy` or `auto`, not with `dhcp: {self.dhcp}`"
            )
        if self.subnet is not None and self.dhcp == "auto":
            raise ValueError(
                "`dhcp: auto` asks on the wire (want an `interface`, or full or proxy)"
            )
        if self.subnet is not None and self.dhcp == "off":
            raise ValueError(
                "a subnet behind relays with `dhcp: off` is nothing (want full, proxy)"
            )
        for problem in self._pool_problems():
            raise ValueError(problem)
        return self

    def _pool_problems(self) -> Iterator[str]:
        """What is wrong with the ranges of the pool among themselves."""
        ranges = sorted(self.pool, key=lambda each: each.first)
        for lower, upper in pairwise(ranges):
            if upper.first <= lower.last:
                yield f"the pool's ranges {lower} and {upper} overlap"
        if sum(map(len, ranges)) > POOL_SIZE_MAX:
            yield f"the pool holds more than {POOL_SIZE_MAX} addresses (want fewer)"
        for each in ranges:
            if self.subnet is not None and not (
                each.first in self.subnet and each.last in self.subnet
            ):
                yield f"the pool {each} is not within {self.subnet}"


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
    def _networks_differ(cls, networks: tuple[NetworkSettings, ...]) -> tuple[NetworkSettings, ...]:
        names = [network.interface for network in networks if network.interface is not None]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"interface {', '.join(twice)} is listed twice (want each once)")
        if not names:
            raise ValueError("no network has an `interface` (want one that relays reach us by)")
        subnets = [network.subnet for network in networks if network.subnet is not None]
        for index, subnet in enumerate(subnets):
            for other in subnets[:index]:
                if subnet.overlaps(other):
                    raise ValueError(f"the subnets {other} and {subnet} overlap (want them apart)")
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

    @property
    def cache(self) -> Path:
        """The folder of what builds have made."""
        return self.state_dir / "cache"

    @property
    def changes(self) -> Path:
        """The folder of what people changed in images."""
        return self.state_dir / "changes"


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
