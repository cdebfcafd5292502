"""The files of a node: what templates know, what becomes of them, and all their faults at once."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import pytest

from bootnode.addresses import MacAddress
from bootnode.boot import nodefiles
from bootnode.boot.nodefiles import (
    FILES_MAX,
    Asked,
    FileTree,
    NodeFile,
    NodeNetwork,
    Renderer,
    archive,
    node_networks,
)
from bootnode.config import Config, NetworkSettings
from bootnode.errors import KeysError, NodeFilesError
from bootnode.image import cpio
from bootnode.nodes import Boot, Node, NodeTable

MACS = tuple(MacAddress.parse(f"52:54:00:00:00:0{number}") for number in range(4))


def node(name: str, *ips: str, macs: tuple[MacAddress, ...] = MACS[:1], **vars_: Any) -> Node:
    return Node(
        name=name,
        macs=macs,
        addresses={mac: IPv4Address(ip) for mac, ip in zip(macs, ips, strict=False)},
        image="compute",
        kernel_args=("quiet",),
        boot=Boot.NETWORK,
        boot_file=None,
        vars=vars_,
        profiles=("gpu", "rack-b"),
    )


ALDER = node("alder", "10.77.0.10", "10.78.0.10", macs=MACS[:2], rack=7)
BIRCH = node("birch", macs=MACS[2:3])
CEDAR = node("cedar", "10.78.0.12", macs=MACS[3:])


def network(subnet: str, **settings: Any) -> NodeNetwork:
    return NodeNetwork(
        server=IPv4Network(subnet)[1],
        subnet=IPv4Network(subnet),
        http_port=8080,
        settings=NetworkSettings(interface="eth1", dhcp="full", **settings),
    )


FIRST = network(
    "10.77.0.0/24",
    router="10.77.0.254",
    dns=["10.77.0.1", "10.77.0.2"],
    domain="lab.example",
    ntp="10.77.0.3",
    mtu=9000,
)
SECOND = network("10.78.0.0/16")


class Keys:
    """Keys that one can read."""

    def machine_id(self, node: str) -> str:
        return f"id-of-{node}"

    def ssh_host_key(self, node: str) -> str:
        return f"secret-of-{node}\n"

    def ssh_host_public_key(self, node: str) -> str:
        return f"public-of-{node}"


RENDERER = Renderer(table=NodeTable((ALDER, BIRCH, CEDAR)), networks=(FIRST, SECOND), keys=Keys())


def tree(files: Mapping[str, str]) -> FileTree:
    return FileTree(cpio.file(path, text.encode()) for path, text in files.items())


def rendered(text: str, node: Node = ALDER, **options: Any) -> str:
    (file,) = RENDERER.render(tree({"f.j2": text}), node, image="compute/0123", **options)
    return file.entry.data.decode()


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("{{ node.name }} {{ node.image }}", "alder compute"),
        ("{{ node.mac }} {{ node.macs | join(' ') }}", f"{MACS[0]} {MACS[0]} {MACS[1]}"),
        ("{{ node.ip }} {{ node.ips | join(' ') }}", "10.77.0.10 10.77.0.10 10.78.0.10"),
        ("{{ node.profiles | join(' ') }} {{ node.kernel_args[0] }}", "gpu rack-b quiet"),
        ("{{ vars.rack }}", "7"),
        ("{{ image.name }} {{ image.version }}", "compute 0123"),
        ("{{ network.server }} {{ network.url }}", "10.77.0.1 http://10.77.0.1:8080"),
        ("{{ network.prefix }} {{ network.netmask }}", "24 255.255.255.0"),
        ("{{ network.router }} {{ network.mtu }}", "10.77.0.254 9000"),
        ("{{ network.dns | join(' ') }} {{ network.ntp[0] }}", "10.77.0.1 10.77.0.2 10.77.0.3"),
        ("{{ network.domain }}", "lab.example"),
        ("{{ machine_id() }}", "id-of-alder"),
        ("{{ ssh_host_public_key() }}", "public-of-alder"),
        ("{{ ssh_host_public_key('birch') }}", "public-of-birch"),
        (
            "{% for each in nodes %}{{ each.name }} {{ each.ip or '-' }},{% endfor %}",
            "alder 10.77.0.10,birch -,cedar 10.78.0.12,",
        ),
        (
            "{{ hosts }}",
            (
                "10.77.0.10 alder.lab.example alder\n"
                "10.78.0.10 alder.lab.example alder\n"
                "10.78.0.12 cedar.lab.example cedar\n"
            ),
        ),
    ],
)
def test_what_templates_know(text: str, given: str) -> None:
    assert rendered(text) == given


def test_without_a_domain_hosts_have_plain_names() -> None:
    assert rendered("{{ hosts }}", CEDAR).splitlines()[-1] == "10.78.0.12 cedar"


def asked(client: str, server: str) -> Asked:
    return Asked(client=IPv4Address(client), server=IPv4Address(server))


@pytest.mark.parametrize(
    ("node", "asked", "prefix", "server"),
    [
        (ALDER, None, 24, "10.77.0.1"),
        (CEDAR, None, 16, "10.78.0.1"),
        # A fixed address says more than the one of the moment: `check` knows it too.
        (CEDAR, asked("10.77.0.99", "10.77.0.1"), 16, "10.77.0.1"),
        (BIRCH, None, 24, "10.77.0.1"),
        (BIRCH, asked("10.78.0.99", "10.78.0.1"), 16, "10.78.0.1"),
        # Behind a relay or router, it may ask any of our addresses.
        (BIRCH, asked("10.78.0.99", "10.77.0.1"), 16, "10.77.0.1"),
        (BIRCH, asked("192.0.2.7", "10.78.0.1"), 24, "10.78.0.1"),
        (BIRCH, asked("127.0.0.1", "127.0.0.1"), 24, "10.77.0.1"),
    ],
)
def test_the_network_of_a_node(node: Node, asked: Asked | None, prefix: int, server: str) -> None:
    text = "{{ network.prefix }} {{ network.server }}"
    assert rendered(text, node, asked=asked) == f"{prefix} {server}"


def test_the_networks_of_a_configuration() -> None:
    config = Config.model_validate(
        {
            "networks": [
                {"subnet": "10.79.0.0/24", "dhcp": "full", "router": "10.79.0.254"},
                {"interface": "eth1", "dhcp": "full"},
                {"interface": "eth2", "dhcp": "proxy"},
            ],
            "http": {"port": 80},
        }
    )
    addresses = {"eth1": IPv4Interface("10.77.0.1/24"), "eth2": IPv4Interface("10.78.0.1/16")}
    networks = node_networks(config, addresses)
    assert [(str(each.server), str(each.subnet)) for each in networks] == [
        ("10.77.0.1", "10.79.0.0/24"),
        ("10.77.0.1", "10.77.0.0/24"),
        ("10.78.0.1", "10.78.0.0/16"),
    ]
    values = networks[0].values(networks[0].server)
    assert (values["router"], values["url"]) == ("10.79.0.254", "http://10.77.0.1")


@pytest.mark.parametrize(
    "text", ["{{ node.ip }}", "{{ network.router }}", "{{ network.domain }}", "{{ node.rack }}"]
)
def test_what_a_node_has_not_is_no_text(text: str) -> None:
    with pytest.raises(NodeFilesError):
        rendered(text, BIRCH, asked=asked("10.78.0.99", "10.78.0.1"))


def files_of(entries: list[cpio.Entry]) -> dict[str, NodeFile]:
    files = RENDERER.render(FileTree(entries), ALDER, image="compute/0123")
    return {file.entry.path: file for file in files}


def test_files_that_are_no_templates_stay_as_they_are() -> None:
    plain = [
        cpio.file("etc/motd", b"{{ not.me }} \xff"),
        cpio.file("usr/bin/tool", b"", executable=True),
        cpio.symlink("etc/link.j2", "motd"),
    ]
    files = RENDERER.render(FileTree(plain), ALDER, image="compute/0123")
    assert [file.entry for file in files] == [plain[2], plain[0], plain[1]]


def test_templates_lose_their_suffix_and_keep_what_they_may_be_executed_by() -> None:
    files = files_of(
        [cpio.file("a.j2", b"{{ node.name }}"), cpio.file("b.j2", b"x", executable=True)]
    )
    assert [stat.filemode(file.entry.mode) for file in files.values()] == [
        *("-rw-r--r--", "-rwxr-xr-x"),
    ]
    assert files["a"].entry.data == b"alder"
    assert not files["a"].is_secret


@pytest.mark.parametrize(
    ("text", "mode", "is_secret"),
    [
        ('{{ mode("0600") }}x', "-rw-------", False),
        ('{{ mode("0440") }}x', "-r--r-----", False),
        ('{{ mode("7755") }}x', "-rwxr-xr-x", False),
        ("{{ ssh_host_key() }}", "-rw-------", True),
        ('{{ mode("0755") }}{{ ssh_host_key() }}', "-rwx------", True),
    ],
)
def test_a_template_may_ask_for_less(text: str, mode: str, is_secret: bool) -> None:
    file = files_of([cpio.file("f.j2", text.encode())])["f"]
    assert (stat.filemode(file.entry.mode), file.is_secret) == (mode, is_secret)


@pytest.mark.parametrize("mode", ["600", "0o600", "rw", "0888", 384])
def test_what_is_no_mode(mode: object) -> None:
    with pytest.raises(NodeFilesError, match=r'^f\.j2:1: mode\(.*\) is not a mode \(want mode\("'):
        rendered(f"{{{{ mode({mode!r}) }}}}x")


@pytest.mark.parametrize("text", ["", "\n \n", "{% if vars.other is defined %}x{% endif %}\n"])
def test_a_template_that_gives_nothing_makes_no_file(text: str) -> None:
    assert files_of([cpio.file("f.j2", text.encode())]) == {}


def test_an_empty_file_that_is_no_template_is_a_file() -> None:
    assert list(files_of([cpio.file("f", b"")])) == ["f"]


def test_all_faults_of_a_node_at_once() -> None:
    faulty = tree({"a.j2": "{{ vars.x }}", "b.j2": "fine", "c.j2": "\n{{ y }}"})
    with pytest.raises(NodeFilesError) as raised:
        RENDERER.render(faulty, ALDER, image="compute/0123")
    assert str(raised.value) == "a.j2:1: there is no 'x' (there is: rack); c.j2:2: 'y' is undefined"


def test_keys_that_cannot_be_had_are_a_fault_of_the_templates_that_want_them() -> None:
    class Broken(Keys):
        def machine_id(self, node: str) -> str:
            raise KeysError("the secret is damaged")

    renderer = replace(RENDERER, keys=Broken())
    assert renderer.render(tree({"f.j2": "x"}), ALDER, image="a/b")
    with pytest.raises(NodeFilesError, match=r"^f\.j2:1: the secret is damaged$"):
        renderer.render(tree({"f.j2": "{{ machine_id() }}"}), ALDER, image="a/b")


def test_a_node_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodefiles, "SIZE_MAX", 5)
    assert len(files_of([cpio.file("a", b"123"), cpio.file("b.j2", b"45")])) == 2
    with pytest.raises(NodeFilesError, match=r"^node-files: 6 bytes \(want 5 at most\)$"):
        files_of([cpio.file("a", b"123"), cpio.file("b.j2", b"456")])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.j2": "{{"}, "a.j2:1: "),
        ({"a.j2": "", "a": ""}, "a: makes the same file as a.j2"),
        ({"etc/.j2": ""}, "etc/.j2: cannot be the name of a file"),
        ({".j2": ""}, ".j2: cannot be the name of a file"),
        ({"a\nb": ""}, "a\nb: cannot be the name of a file"),
        ({"etc.j2": "", "etc/a/b.j2": ""}, "etc/a/b.j2: lies below etc.j2, which is a file"),
        ({str(n): "" for n in range(FILES_MAX + 1)}, "node-files: 1001 files (want 1000 at most)"),
        ({"a.j2": "{{ |", "b.j2": "{% x %}"}, "a.j2:1: "),
    ],
)
def test_what_cannot_be_a_tree(files: dict[str, str], message: str) -> None:
    with pytest.raises(NodeFilesError) as raised:
        tree(files)
    assert str(raised.value).startswith(message)


def test_all_faults_of_a_tree_at_once() -> None:
    entries = [cpio.file("a.j2", b"{{"), cpio.file("b.j2", b"\xff"), cpio.file("c.j2", b"{% x %}")]
    with pytest.raises(NodeFilesError) as raised:
        FileTree(entries)
    names = [(problem.name, problem.line) for problem in raised.value.problems]
    assert names == [("a.j2", 1), ("b.j2", 0), ("c.j2", 1)]


def test_the_ramdisk() -> None:
    files = [NodeFile(entry=cpio.file("etc/hostname", b"alder\n"))]
    expected = [
        cpio.folder("node-files", 0o700),
        cpio.folder("node-files/etc"),
        cpio.file("node-files/etc/hostname", b"alder\n"),
    ]
    assert archive(files, mtime=7) == b"".join(cpio.serialize(expected, mtime=7))
    # init has to see that it arrived.
    assert b"node-files\0" in archive([], mtime=0)
