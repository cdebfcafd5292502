"""The files that make a node out of an image: rendered for one node, as a small second ramdisk.

An image version brings a tree of files (image/nodefiles.py). One whose name ends in `.j2` is a
template, the others are copied as they are. Rules:

- What a node gets follows from the version, the node table, the networks and the server's keys, so
  that `bootnode check` sees what a boot would. Only `network` is better known once the node asks.
- A template that gives nothing but blanks makes no file.
- Files are the root user's, 0755 if they were executable in the tree and 0644 otherwise. A template
  may ask for less by `mode("0600")`; one that a secret went into is its owner's alone.
- Every fault of every template is found in one go.

Limits: FILES_MAX files and SIZE_MAX bytes a node.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, Protocol

from bootnode.boot.plan import Site
from bootnode.boot.templates import Template
from bootnode.config import Config, NetworkSettings
from bootnode.errors import NodeFilesError, TemplateError
from bootnode.image import cpio
from bootnode.nodes import Node, NodeTable

SUFFIX = ".j2"
"""What ends the name of a template."""
FOLDER = "node-files"
"""Where the ramdisk holds them, until init puts them where they belong."""
FILES_MAX = 1000
"""Files in one tree."""
SIZE_MAX = 16 << 20
"""Bytes of all files of one node: they are held in memory while they are sent."""


class Keys(Protocol):
    """What only this server can tell of a node, the same each time."""

    def machine_id(self, node: str) -> str:
        """What systemd wants in /etc/machine-id."""

    def ssh_host_key(self, node: str) -> str:
        """The private key, as sshd reads it."""

    def ssh_host_public_key(self, node: str) -> str:
        """The public half: `ssh-ed25519 AAAA…`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeNetwork:
    """A network as the nodes on it see it."""

    server: IPv4Address
    """Our address as nodes there reach it."""
    subnet: IPv4Network
    http_port: int
    settings: NetworkSettings

    def values(self, server: IPv4Address) -> dict[str, Any]:
        """What templates know as `network`; `server` is our address for this node."""
        settings = self.settings
        return {
            "server": str(server),
            "url": Site(address=server, http_port=self.http_port).url,
            "prefix": self.subnet.prefixlen,
            "netmask": str(self.subnet.netmask),
            "router": str(settings.router) if settings.router is not None else None,
            "dns": [str(address) for address in settings.dns],
            "domain": settings.domain,
            "ntp": [str(address) for address in settings.ntp],
            "mtu": settings.mtu,
        }


def node_networks(config: Config, interfaces: Mapping[str, IPv4Interface]) -> list[NodeNetwork]:
    """The networks of the configuration; `interfaces` are our addresses by interface.

    A node that only relays lead to reaches us, as far as we can tell, by our first address.
    """
    first = next(iter(interfaces.values())).ip
    networks = []
    for settings in config.networks:
        ours = interfaces.get(settings.interface or "")
        subnet = ours.network if ours is not None else settings.subnet
        if subnet is not None:
            networks.append(
                NodeNetwork(
                    server=ours.ip if ours is not None else first,
                    subnet=subnet,
                    http_port=config.http.port,
                    settings=settings,
                )
            )
    return networks


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Between which addresses a node asks for its files."""

    client: IPv4Address
    server: IPv4Address


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFile:
    """One file of one node."""

    entry: cpio.Entry
    """Its path on the node, without the first slash."""
    is_secret: bool = False
    """Whether it holds what no other node may know."""


class FileTree:
    """The files and templates that an image version brings."""

    def __init__(self, entries: Iterable[cpio.Entry]) -> None:
        """Take in regular files and symbolic links, by their paths in the tree.

        Raises:
            NodeFilesError: all that is wrong with them.
        """
        self.plain: list[cpio.Entry] = []
        self.templates: list[tuple[cpio.Entry, Template]] = []
        """Each with the entry that it makes, which is empty yet."""
        problems: list[TemplateError] = []
        taken: dict[str, str] = {}
        for entry in entries:
            try:
                self._add(entry, taken)
            except TemplateError as error:
                problems.append(error)
        problems += [
            TemplateError(taken[path], 0, f"lies below {taken[above]}, which is a file")
            for path in taken
            for above in _folders_above(path)
            if above in taken
        ]
        if len(taken) > FILES_MAX:
            problems.append(
                TemplateError(FOLDER, 0, f"{len(taken)} files (want {FILES_MAX} at most)")
            )
        if problems:
            raise NodeFilesError(problems)

    def _add(self, entry: cpio.Entry, taken: dict[str, str]) -> None:
        is_template = entry.path.endswith(SUFFIX) and stat.S_ISREG(entry.mode)
        target = entry.path.removesuffix(SUFFIX) if is_template else entry.path
        if not target or target.endswith("/") or not target.isprintable():
            raise TemplateError(entry.path, 0, "cannot be the name of a file")
        if (other := taken.setdefault(target, entry.path)) != entry.path:
            raise TemplateError(entry.path, 0, f"makes the same file as {other}")
        if not is_template:
            self.plain.append(entry)
            return
        try:
            text = entry.data.decode()
        except UnicodeDecodeError:
            raise TemplateError(entry.path, 0, "is no text in UTF-8") from None
        made = replace(entry, path=target, data=b"")
        self.templates.append((made, Template(entry.path, text)))


@dataclass(slots=True)
class Renderer:
    """Renders files for the nodes of one table."""

    table: NodeTable
    networks: Sequence[NodeNetwork]
    """At least one; the first is that of a node whose address nobody knows."""
    keys: Keys
    _nodes: list[dict[str, Any]] = field(init=False)
    _hosts: dict[str | None, str] = field(init=False, default_factory=dict)
    """Lines for /etc/hosts, by the domain that they name."""

    def __post_init__(self) -> None:
        self._nodes = [_values_of(node) for node in self.table]

    def render(
        self, tree: FileTree, node: Node, *, image: str, asked: Asked | None = None
    ) -> list[NodeFile]:
        """The files of this node, in order of their paths.

        `image` is NAME/VERSION; `asked` is None as long as the node has not asked for them.

        Raises:
            NodeFilesError: all that is wrong with the templates for this node.
        """
        values = self._values(node, image, asked)
        files = [NodeFile(entry=entry) for entry in tree.plain]
        problems: list[TemplateError] = []
        for made, template in tree.templates:
            try:
                file = self._render_one(made, template, node, values)
            except TemplateError as error:
                problems.append(error)
            else:
                files += [file] if file is not None else []
        size = sum(len(file.entry.data) for file in files)
        if size > SIZE_MAX:
            problems.append(TemplateError(FOLDER, 0, f"{size} bytes (want {SIZE_MAX} at most)"))
        if problems:
            raise NodeFilesError(problems)
        return sorted(files, key=lambda file: file.entry.path)

    def _render_one(
        self, made: cpio.Entry, template: Template, node: Node, values: Mapping[str, Any]
    ) -> NodeFile | None:
        marks = _Marks(keys=self.keys, node=node.name)
        text = template.render({**values, **marks.functions()})
        if not text.strip():
            return None
        permissions = stat.S_IMODE(made.mode) if marks.mode is None else marks.mode
        if marks.is_secret:
            permissions &= 0o700
        entry = replace(made, data=text.encode(), mode=stat.S_IFREG | permissions)
        return NodeFile(entry=entry, is_secret=marks.is_secret)

    def _values(self, node: Node, image: str, asked: Asked | None) -> dict[str, Any]:
        network = self._network(node, asked)
        ours = {network.server for network in self.networks}
        server = asked.server if asked is not None and asked.server in ours else network.server
        name, _, version = image.partition("/")
        return {
            "node": _values_of(node),
            "vars": node.vars,
            "network": network.values(server),
            "image": {"name": name, "version": version},
            "nodes": self._nodes,
            "hosts": self._hosts_of(network.settings.domain),
        }

    def _network(self, node: Node, asked: Asked | None) -> NodeNetwork:
        """Where the node is: by its fixed addresses if it has any, for they are known at all times.

        Else by its address of the moment, else the first.
        """
        addresses = [*node.addresses.values(), *([asked.client] if asked is not None else [])]
        for address in addresses:
            for network in self.networks:
                if address in network.subnet:
                    return network
        return self.networks[0]

    def _hosts_of(self, domain: str | None) -> str:
        # The same for every node: with thousands of nodes, a loop in a template takes its time.
        text = self._hosts.get(domain)
        if text is None:
            text = self._hosts[domain] = "".join(
                f"{ip} {node['name']}.{domain} {node['name']}\n"
                if domain
                else f"{ip} {node['name']}\n"
                for node in self._nodes
                for ip in node["ips"]
            )
        return text


@dataclass(slots=True)
class _Marks:
    """The functions of one template for one node, and what it did with them."""

    keys: Keys
    node: str
    mode: int | None = None
    is_secret: bool = False

    def functions(self) -> dict[str, Any]:
        """By the names that templates know."""
        return {
            "mode": self._set_mode,
            "machine_id": lambda: self.keys.machine_id(self.node),
            "ssh_host_key": self._ssh_host_key,
            "ssh_host_public_key": lambda node=self.node: self.keys.ssh_host_public_key(node),
        }

    def _set_mode(self, text: object) -> str:
        # YAML and Jinja2 both read 0600 as a number, and each as another one.
        if not isinstance(text, str) or len(text) != 4 or not set(text) <= set("01234567"):
            raise TypeError(f'mode({text!r}) is not a mode (want mode("0600"), with the quotes)')
        self.mode = int(text, 8) & 0o777
        return ""

    def _ssh_host_key(self) -> str:
        self.is_secret = True
        return self.keys.ssh_host_key(self.node)


def _folders_above(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _values_of(node: Node) -> dict[str, Any]:
    """What templates know as `node`, and as each of `nodes`."""
    ips = [str(ip) for ip in node.addresses.values()]
    return {
        "name": node.name,
        "mac": str(node.macs[0]),
        "macs": [str(mac) for mac in node.macs],
        "ip": ips[0] if ips else None,
        "ips": ips,
        "image": node.image,
        "profiles": list(node.profiles),
        "kernel_args": list(node.kernel_args),
    }


def archive(files: Iterable[NodeFile], *, mtime: int) -> bytes:
    """The ramdisk with these files; `mtime` in seconds since 1970."""
    # init looks for the folder: without it, the ramdisk did not arrive.
    entries = [cpio.folder(FOLDER, 0o700)]
    entries += [replace(file.entry, path=f"{FOLDER}/{file.entry.path}") for file in files]
    return b"".join(cpio.serialize(entries, mtime=mtime))
