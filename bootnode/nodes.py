"""nodes.yaml: which machine boots what.

`load_nodes` reads one file, or a folder of *.yaml that count as one, and returns a `NodeTable`:
names counted up from ranges, and `defaults`, then profiles in order, then the node merged
(scalars replace, `kernel_args`, `options` and `vars` merge). Every problem is found in one go.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from bootnode.addresses import MacAddress
from bootnode.config import (
    Config,
    DhcpOptions,
    ImageName,
    Ipv4List,
    KernelArgs,
    ProxyStyle,
    Settings,
    load_config,
    nodes_path,
    one_or_many,
)
from bootnode.errors import ConfigError, Problem
from bootnode.yamlmarks import Document, KeyPath, load_yaml, validate

# The name becomes a host name: RFC 1123 section 2.1.
NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)
_RANGE = re.compile(r"([^\[\]]*)\[(\d+)-(\d+)\]([^\[\]]*)")
RANGE_MAX = 65536
"""Nodes that one range may name; more is a slip of the finger."""
UNKNOWN_PREFIX = "unknown-"


class Boot(StrEnum):
    """Where a node's next boot comes from."""

    NETWORK = "network"
    LOCAL = "local"
    ONCE = "once"
    """From the network until its image was delivered, from the local disk ever after."""


class Loader(StrEnum):
    """How firmware gets to the kernel."""

    IPXE = "ipxe"
    UKI = "uki"
    """A unified kernel image, which UEFI starts by itself; other firmware gets iPXE."""
    GRUB = "grub"
    """GRUB, for UEFI's PXE client; a PC BIOS gets iPXE."""


def _parse_mac(value: object) -> MacAddress:
    mac = MacAddress.parse(str(value))
    if mac.is_group or not any(mac):
        raise ValueError(f"'{value}' is a group or empty address (want the address of a card)")
    return mac


# The header's file field holds 127 bytes and option 67 one octet of length: RFC 2131, RFC 2132.
BOOT_FILE_MAX = 127


def _check_boot_file(value: str) -> str:
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError(f"{value!r} is not a boot file (want ASCII without blanks)")
    return value


BootFileName = Annotated[
    str, Field(min_length=1, max_length=BOOT_FILE_MAX), AfterValidator(_check_boot_file)
]


def _plus(address: IPv4Address, offset: int) -> IPv4Address:
    try:
        return address + offset
    except ValueError:
        raise ValueError(f"counting {offset} up from {address} leaves the address space") from None


class NodeSettings(Settings):
    """What may stand in `defaults`, in a profile, and on a node."""

    image: ImageName | None = None
    """The image to boot, by its name under state_dir/images."""
    kernel_args: KernelArgs = ()
    """Added to the kernel's command line, after those of the image."""
    boot: Boot | None = None
    """`network` (the default), `local`, or `once`."""
    loader: Loader | None = None
    """How firmware gets to the kernel: `ipxe`, `uki` or `grub`; as the image says when absent."""
    boot_file: BootFileName | None = None
    """One file for the firmware to boot, overriding image and loader: a TFTP path or a URL."""
    proxy_style: ProxyStyle | None = None
    """How ProxyDHCP leads firmware to its boot file: `direct`, `port4011`; else as its network."""
    options: DhcpOptions = Field(default_factory=dict)
    """DHCP options by name or number, before those of its network."""
    vars: dict[str, Any] = Field(default_factory=dict)
    """Values of your own."""


class NodeEntry(NodeSettings):
    """One node, or a range of nodes, as written under `nodes`."""

    mac: Annotated[
        tuple[Annotated[MacAddress, BeforeValidator(_parse_mac)], ...],
        BeforeValidator(one_or_many),
        Field(min_length=1),
    ]
    """The hardware address of its card, or a list when it has several."""
    ip: Ipv4List = ()
    """Its fixed address; a list gives one to each MAC, in order."""
    profile: Annotated[tuple[str, ...], BeforeValidator(one_or_many)] = ()
    """One profile, or a list; later ones win."""


class NodesFile(Settings):
    """nodes.yaml as a whole."""

    defaults: NodeSettings = NodeSettings()
    """What every node starts from."""
    profiles: dict[str, NodeSettings] = Field(default_factory=dict)
    """Named settings that nodes can share."""
    nodes: dict[str, NodeEntry] = Field(default_factory=dict)
    """The nodes by name; `node-[000-063]` names 64 of them."""
    unknown: Literal["ignore", "address"] | NodeSettings | None = None
    """A MAC not listed: `ignore` it, give it an `address` and no boot, or boot these settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine of the table, with everything merged."""

    name: str
    macs: tuple[MacAddress, ...]
    addresses: Mapping[MacAddress, IPv4Address]
    """Its fixed addresses; a MAC without one gets an address from the pool."""
    image: str | None
    kernel_args: tuple[str, ...]
    boot: Boot
    boot_file: str | None
    vars: Mapping[str, Any]
    profiles: tuple[str, ...] = ()
    """What its settings were taken from, in order."""
    options: Mapping[int, bytes] = field(default_factory=dict)
    """DHCP options by code, serialized."""
    loader: Loader | None = None
    """None leaves it to the image."""
    proxy_style: ProxyStyle | None = None
    """None leaves it to the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageUse:
    """A place in the files where an image is named."""

    image: str
    problem: Problem
    """Its place; the message is for whoever finds the image missing to write."""


@dataclass(frozen=True, slots=True)
class NodeTable:
    """Who is this MAC, and what should it boot. Never changes: a reload makes a new one."""

    nodes: tuple[Node, ...] = ()
    unknown: Literal["ignore", "address"] | Node = "ignore"
    """What a MAC outside the table gets; a Node is the pattern for it."""
    image_uses: tuple[ImageUse, ...] = ()
    _by_mac: dict[MacAddress, Node] = field(default_factory=dict, init=False, repr=False)
    _by_name: dict[str, Node] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for node in self.nodes:
            self._by_name[node.name.lower()] = node
            for mac in node.macs:
                self._by_mac[mac] = node

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def by_name(self, name: str) -> Node | None:
        """The node of this name, whatever its case."""
        return self._by_name.get(name.lower())

    def find(self, text: str) -> Node | None:
        """The node of this name or MAC, as a person types it."""
        try:
            return self.by_mac(MacAddress.parse(text))
        except ValueError:
            return self.by_name(text)

    def by_mac(self, mac: MacAddress) -> Node | None:
        """The node that has this card; None for one outside the table."""
        return self._by_mac.get(mac)

    def to_boot(self, mac: MacAddress) -> Node | None:
        """The node that has this card, or what `unknown` makes of it; None boots nothing."""
        node = self._by_mac.get(mac)
        if node is None and isinstance(self.unknown, Node):
            pattern = self.unknown
            return Node(
                name=UNKNOWN_PREFIX + mac.hex(),
                macs=(mac,),
                addresses={},
                image=pattern.image,
                kernel_args=pattern.kernel_args,
                boot=pattern.boot,
                boot_file=pattern.boot_file,
                loader=pattern.loader,
                proxy_style=pattern.proxy_style,
                vars=pattern.vars,
                options=pattern.options,
            )
        return node

    def may_have_address(self, mac: MacAddress) -> bool:
        """Whether a DHCP server should answer this MAC at all."""
        return mac in self._by_mac or self.unknown != "ignore"

    @property
    def macs(self) -> Collection[MacAddress]:
        """The hardware addresses of all nodes."""
        return self._by_mac.keys()

    @property
    def reservations(self) -> dict[MacAddress, IPv4Address]:
        """The fixed address of each MAC that has one."""
        return {mac: address for node in self.nodes for mac, address in node.addresses.items()}


def load_site(path: Path, *, state_dir: Path | None = None) -> tuple[Config, NodeTable]:
    """Read bootnoded.yaml and the node table that it names.

    Raises:
        ConfigError: everything that is wrong with both.
    """
    try:
        config = load_config(path, state_dir=state_dir)
    except ConfigError as error:
        try:
            load_nodes(nodes_path(path))
        except ConfigError as other:
            raise ConfigError([*error.problems, *other.problems]) from None
        raise
    return config, load_nodes(config.nodes)


def load_nodes(path: Path) -> NodeTable:
    """Read the node table from a file, or from every *.yaml of a folder in order of name.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    builder = _TableBuilder()
    for document in _documents(path, builder.problems):
        builder.add(document)
    return builder.table()


def _documents(path: Path, problems: list[Problem]) -> Iterator[Document]:
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    if not files:
        text = "the folder holds no *.yaml (want at least one)"
        problems.append(Problem(file=str(path), line=0, column=0, key="", message=text))
    for file in files:
        try:
            yield load_yaml(file)
        except ConfigError as error:
            problems.extend(error.problems)


@dataclass(slots=True)
class _TableBuilder:
    """Collects files, then merges them; holds every problem met on the way."""

    problems: list[Problem] = field(default_factory=list)
    _is_whole: bool = True
    """Whether every file was read in full; else a node may lack what a faulty part would give."""
    _defaults: tuple[Document, NodeSettings] | None = None
    _unknown: tuple[Document, Literal["ignore", "address"] | NodeSettings] | None = None
    _profiles: dict[str, tuple[Document, NodeSettings]] = field(default_factory=dict)
    _entries: list[tuple[Document, str, NodeEntry]] = field(default_factory=list)
    _places: dict[object, str] = field(default_factory=dict)
    """Where each name, MAC and address was first claimed, for the message about the second."""

    def add(self, document: Document) -> None:
        """Take one file in."""
        try:
            content = validate(NodesFile, document)
        except ConfigError as error:
            self.problems.extend(error.problems)
            self._is_whole = False
            content = _valid_part(document)
        if "defaults" in content.model_fields_set:
            if self._defaults is not None:
                self._second(document, ("defaults",), self._defaults[0])
            self._defaults = (document, content.defaults)
        if content.unknown is not None:
            if self._unknown is not None:
                self._second(document, ("unknown",), self._unknown[0])
            self._unknown = (document, content.unknown)
        for name, profile in content.profiles.items():
            if name in self._profiles:
                self._second(document, ("profiles", name), self._profiles[name][0])
            self._profiles[name] = (document, profile)
        self._entries += [(document, name, entry) for name, entry in content.nodes.items()]

    def table(self) -> NodeTable:
        """The merged table.

        Raises:
            ConfigError: problems were met.
        """
        nodes = [
            node
            for document, name, entry in self._entries
            for node in self._expand(document, name, entry)
        ]
        unknown: Literal["ignore", "address"] | Node = "ignore"
        if self._unknown is not None:
            choice = self._unknown[1]
            unknown = (
                self._merge("unknown", [choice]) if isinstance(choice, NodeSettings) else choice
            )
            if isinstance(unknown, Node) and unknown.boot is Boot.ONCE:
                text = "a machine outside the table cannot boot once (want `network` or `local`)"
                self.problems.append(self._unknown[0].problem(("unknown", "boot"), text))
        if self.problems:
            raise ConfigError(self.problems)
        return NodeTable(tuple(nodes), unknown, tuple(self._image_uses()))

    def _second(self, document: Document, path: KeyPath, first: Document) -> None:
        text = f"is in {first.file} as well (want it in one file)"
        self.problems.append(document.problem(path, text, at_key=True))

    def _expand(self, document: Document, name: str, entry: NodeEntry) -> Iterator[Node]:
        """The nodes that one entry stands for, each with its claims checked."""
        path: KeyPath = ("nodes", name)
        try:
            names = expand_name(name)
        except ValueError as error:
            self.problems.append(document.problem(path, str(error), at_key=True))
            return
        if len(entry.ip) > len(entry.mac):
            text = f"{len(entry.ip)} addresses for {len(entry.mac)} MACs (want one each)"
            self.problems.append(document.problem((*path, "ip"), text))
            return
        merged = self._merge(name, [*self._profiles_of(document, path, entry), entry])
        boots = merged.image or merged.boot_file or merged.boot is Boot.LOCAL
        if self._is_whole and not boots:
            text = "has nothing to boot (want `image` here, in a profile or in defaults)"
            self.problems.append(document.problem(path, text, at_key=True))
        for index, each in enumerate(names):
            try:
                macs = tuple(_parse_mac(mac.plus(index)) for mac in entry.mac)
                addresses = [_plus(address, index) for address in entry.ip]
            except ValueError as error:
                self.problems.append(document.problem(path, str(error)))
                return
            self._claim(document, path, each, macs, addresses)
            yield Node(
                name=each,
                macs=macs,
                addresses=dict(zip(macs, addresses, strict=False)),
                image=merged.image,
                kernel_args=merged.kernel_args,
                boot=merged.boot,
                boot_file=merged.boot_file,
                loader=merged.loader,
                proxy_style=merged.proxy_style,
                vars=merged.vars,
                profiles=entry.profile,
                options=merged.options,
            )

    def _claim(
        self,
        document: Document,
        path: KeyPath,
        name: str,
        macs: Iterable[MacAddress],
        addresses: Iterable[IPv4Address],
    ) -> None:
        """Note what a node takes for itself, and complain about what another has already."""
        line = document.problem(path, "", at_key=True).line
        place = f"{name} ({document.file}:{line})"
        claims: list[tuple[KeyPath, object, str]] = [(path, name.lower(), f"the name '{name}'")]
        claims += [((*path, "mac"), mac, f"{mac} of {name}") for mac in macs]
        claims += [((*path, "ip"), address, f"{address} of {name}") for address in addresses]
        for key_path, claim, text in claims:
            first = self._places.setdefault(claim, place)
            if first is not place:
                message = f"{text} is taken by {first} (want each once)"
                self.problems.append(document.problem(key_path, message, at_key=True))

    def _profiles_of(
        self, document: Document, path: KeyPath, entry: NodeEntry
    ) -> Iterator[NodeSettings]:
        for name in entry.profile:
            if name in self._profiles:
                yield self._profiles[name][1]
            else:
                known = ", ".join(sorted(self._profiles)) or "none is defined"
                text = f"there is no profile '{name}' (want one of: {known})"
                self.problems.append(document.problem((*path, "profile"), text))

    def _merge(self, name: str, settings: Iterable[NodeSettings]) -> Node:
        """`defaults`, then these in order: scalars replace, the others merge."""
        layers = [self._defaults[1]] if self._defaults is not None else []
        layers += settings
        scalars: dict[str, Any] = {
            "image": None,
            "boot": Boot.NETWORK,
            "loader": None,
            "boot_file": None,
            "proxy_style": None,
        }
        variables: dict[str, Any] = {}
        options: dict[int, bytes] = {}
        arguments: dict[str, None] = {}  # ordered, each once
        for layer in layers:
            scalars |= {
                key: getattr(layer, key) for key in scalars if getattr(layer, key) is not None
            }
            variables |= layer.vars
            options |= layer.options
            arguments |= dict.fromkeys(layer.kernel_args)
        return Node(
            name=name,
            macs=(),
            addresses={},
            kernel_args=tuple(arguments),
            vars=variables,
            options=options,
            **scalars,
        )

    def _image_uses(self) -> Iterator[ImageUse]:
        layers: list[tuple[Document, KeyPath, NodeSettings]] = []
        if self._defaults is not None:
            layers.append((self._defaults[0], ("defaults",), self._defaults[1]))
        if self._unknown is not None and isinstance(self._unknown[1], NodeSettings):
            layers.append((self._unknown[0], ("unknown",), self._unknown[1]))
        layers += [(doc, ("profiles", name), p) for name, (doc, p) in self._profiles.items()]
        layers += [(doc, ("nodes", name), entry) for doc, name, entry in self._entries]
        for document, path, settings in layers:
            if settings.image is not None:
                yield ImageUse(image=settings.image, problem=document.problem((*path, "image"), ""))


def _valid_part(document: Document) -> NodesFile:
    """What can be read of a file with errors, so that one pass finds the other kinds too."""
    content: dict[str, Any] = {}
    if isinstance(nodes := document.data.get("nodes"), dict):
        parsed = {name: _try(NodeEntry, value) for name, value in nodes.items()}
        content["nodes"] = {name: entry for name, entry in parsed.items() if entry is not None}
    if isinstance(profiles := document.data.get("profiles"), dict):
        # A faulty profile is there all the same: the nodes that name it are right.
        content["profiles"] = {
            name: _try(NodeSettings, value) or NodeSettings() for name, value in profiles.items()
        }
    if (defaults := _try(NodeSettings, document.data.get("defaults"))) is not None:
        content["defaults"] = defaults
    return NodesFile(**content)


def _try(model: type[NodeSettings], data: object) -> NodeSettings | None:
    try:
        return model.model_validate(data)
    except ValidationError:
        return None


def expand_name(pattern: str) -> list[str]:
    """The names that `node-[000-063]` stands for, zeros kept; a plain name stands for itself.

    Raises:
        ValueError: the pattern or a name that it makes is not a host name.
    """
    match = _RANGE.fullmatch(pattern)
    if match is None:
        names = [pattern]
    else:
        before, first, last, after = match.groups()
        if int(last) < int(first) or int(last) - int(first) >= RANGE_MAX:
            raise ValueError(
                f"'[{first}-{last}]' is not a range (want it ascending, at most {RANGE_MAX} nodes)"
            )
        numbers = range(int(first), int(last) + 1)
        names = [f"{before}{number:0{len(first)}d}{after}" for number in numbers]
    if not all(NODE_NAME.fullmatch(name) for name in (names[0], names[-1])):
        raise ValueError(f"'{pattern}' is not a node name (want node-000 or node-[000-063])")
    return names


_LAST_NUMBER = re.compile(r"(.*?)(\d+)(\D*)")


def fold_names(names: Iterable[str]) -> list[str]:
    """The shortest patterns that `expand_name` makes these names of; runs of numbers as ranges.

    What has no number or is no node's name stays as it is, and comes last.
    """
    patterns, others = [], []
    for name in dict.fromkeys(names):
        match = _LAST_NUMBER.fullmatch(name)
        if match is None or not NODE_NAME.fullmatch(name):
            others.append(name)
        else:
            before, number, after = match.groups()
            patterns.append((before, after, len(number), number))
    runs: list[list[tuple[str, str, int, str]]] = []
    for part in sorted(patterns):
        if runs and len(runs[-1]) < RANGE_MAX and _follows(runs[-1], part):
            runs[-1].append(part)
        else:
            runs.append([part])
    return [*map(_pattern, runs), *others]


def _follows(run: list[tuple[str, str, int, str]], part: tuple[str, str, int, str]) -> bool:
    """Whether `part` is the next name that a range with the beginning of `run` makes."""
    width = run[0][2]
    wanted = f"{int(run[-1][3]) + 1:0{width}d}"
    return part[:2] == run[0][:2] and part[3] == wanted


def _pattern(run: list[tuple[str, str, int, str]]) -> str:
    before, after, _, first = run[0]
    return f"{before}[{first}-{run[-1][3]}]{after}" if len(run) > 1 else f"{before}{first}{after}"
