"""nodes.yaml: what a table says of each node, and what is wrong with a bad one, word for word."""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from bootnode.addresses import MacAddress
from bootnode.config import ProxyStyle
from bootnode.errors import ConfigError
from bootnode.nodes import (
    RANGE_MAX,
    Boot,
    Loader,
    Node,
    NodeTable,
    expand_name,
    fold_names,
    load_nodes,
)

SHIPPED = Path(__file__).parents[2] / "config" / "nodes.yaml"
MAC = MacAddress.parse("52:54:00:12:34:56")
STRANGER = MacAddress.parse("02:00:00:00:00:99")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "nodes.yaml"


def load(file: Path, text: str) -> NodeTable:
    file.write_text(text)
    return load_nodes(file)


def messages(path: Path) -> list[str]:
    """What is wrong with a file or folder, without the folder it is in."""
    with pytest.raises(ConfigError) as caught:
        load_nodes(path)
    folder = path if path.is_dir() else path.parent
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def named(table: NodeTable, name: str) -> Node:
    node = table.by_name(name)
    assert node is not None
    return node


def test_shipped_example() -> None:
    table = load_nodes(SHIPPED)
    assert len(table) == 32
    assert named(table, "node-000") == Node(
        name="node-000",
        macs=(MacAddress.parse("fc:ab:14:e8:66:01"),),
        addresses={MacAddress.parse("fc:ab:14:e8:66:01"): IPv4Address("10.77.0.10")},
        image="failsafe",
        kernel_args=("console=tty0", "console=ttyS0"),
        boot=Boot.NETWORK,
        boot_file=None,
        vars={},
    )
    last = named(table, "node-031")
    assert last.macs == (MacAddress.parse("52:54:00:00:01:1f"),)
    assert list(last.addresses.values()) == [IPv4Address("10.77.0.41")]
    assert last.kernel_args == ("console=tty0", "console=ttyS0", "quiet")
    assert table.unknown == "ignore"


def test_layers_merge_in_order(file: Path) -> None:
    table = load(
        file,
        """
defaults: {image: failsafe, kernel_args: [console=ttyS0, quiet], vars: {a: 1, b: 1}}
profiles:
  gpu: {image: compute, kernel_args: [nomodeset], vars: {b: 2, c: 2}}
  disk: {boot: once, kernel_args: quiet, boot_file: grubx64.efi, vars: {c: 3}}
nodes:
  plain: {mac: "02:00:00:00:00:01"}
  one: {mac: 02:00:00:00:00:02, profile: gpu}
  both: {mac: 02:00:00:00:00:03, profile: [gpu, disk], image: own, boot: local, vars: {d: 4}}
  backwards: {mac: 02:00:00:00:00:04, profile: [disk, gpu], loader: ipxe}
""",
    )
    plain, one, both, backwards = table
    assert (plain.image, plain.kernel_args) == ("failsafe", ("console=ttyS0", "quiet"))
    assert (plain.boot, plain.boot_file, plain.vars) == (Boot.NETWORK, None, {"a": 1, "b": 1})
    assert (one.image, one.kernel_args) == ("compute", ("console=ttyS0", "quiet", "nomodeset"))
    assert one.vars == {"a": 1, "b": 2, "c": 2}
    assert (both.image, both.boot, both.boot_file) == ("own", Boot.LOCAL, "grubx64.efi")
    assert both.kernel_args == ("console=ttyS0", "quiet", "nomodeset")
    assert both.vars == {"a": 1, "b": 2, "c": 3, "d": 4}
    assert (backwards.image, backwards.boot) == ("compute", Boot.ONCE)
    assert backwards.vars == {"a": 1, "b": 2, "c": 2}
    assert [node.profiles for node in table] == [(), ("gpu",), ("gpu", "disk"), ("disk", "gpu")]


def test_text_stays_text(file: Path) -> None:
    """YAML 1.1 makes a base-60 number of the first MAC, and false of `no`."""
    table = load(
        file,
        """
defaults: {image: failsafe}
nodes:
  a: {mac: 52:54:00:12:34:56, vars: {no: no, yes: off, time: 12:30:45, n: 010, t: true}}
  b: {mac: 525400123457}
  no: {mac: 10:20:30:40:50:52}
  1: {mac: 10:20:30:40:50:54}
""",
    )
    assert named(table, "a").macs == (MAC,)
    values = named(table, "a").vars
    assert values == {"no": "no", "yes": "off", "time": "12:30:45", "n": "010", "t": True}
    assert named(table, "b").macs == (MAC.plus(1),)
    assert [node.name for node in table] == ["a", "b", "no", "1"]


def test_several_cards_and_addresses(file: Path) -> None:
    table = load(
        file,
        """
nodes:
  two: {image: i, mac: [02:00:00:00:00:01, 02-00-00-00-00-02], ip: [10.0.0.1, 10.0.0.2]}
  one: {image: i, mac: [02:00:00:00:00:03, 02:00:00:00:00:04], ip: 10.0.0.3}
  pool: {image: i, mac: 0200.0000.0005}
""",
    )
    assert table.reservations == {
        MacAddress.parse("02:00:00:00:00:01"): IPv4Address("10.0.0.1"),
        MacAddress.parse("02:00:00:00:00:02"): IPv4Address("10.0.0.2"),
        MacAddress.parse("02:00:00:00:00:03"): IPv4Address("10.0.0.3"),
    }
    assert table.by_mac(MacAddress.parse("02:00:00:00:00:04")) is named(table, "one")


def test_range_counts_everything_up(file: Path) -> None:
    table = load(
        file,
        "nodes: {'r-[09-11].x': {image: i, mac: [02:00:00:00:00:fe, 02:00:00:00:10:00],"
        " ip: 10.0.0.254}}".replace(".x", "x"),
    )
    assert [node.name for node in table] == ["r-09x", "r-10x", "r-11x"]
    assert [str(mac) for node in table for mac in node.macs] == [
        *("02:00:00:00:00:fe", "02:00:00:00:10:00"),
        *("02:00:00:00:00:ff", "02:00:00:00:10:01"),
        *("02:00:00:00:01:00", "02:00:00:00:10:02"),
    ]
    assert [str(ip) for node in table for ip in node.addresses.values()] == [
        *("10.0.0.254", "10.0.0.255", "10.0.1.0"),
    ]


def test_finding_a_node(file: Path) -> None:
    table = load(file, "nodes: {Node-1: {image: i, mac: 52:54:00:12:34:56}}")
    (node,) = table
    assert table.by_name("NODE-1") is node
    assert table.find("node-1") is node
    assert table.find("52-54-00-12-34-56") is node
    assert table.find("52:54:00:12:34:57") is None
    assert table.find("node-2") is None
    assert table.to_boot(MAC) is node


@pytest.mark.parametrize(
    ("text", "unknown", "may_have_address"),
    [
        ("", "ignore", False),
        ("unknown: ignore", "ignore", False),
        ("unknown: address", "address", True),
    ],
)
def test_unknown_by_a_word(file: Path, text: str, unknown: str, may_have_address: bool) -> None:
    table = load(file, f"nodes: {{a: {{image: i, mac: 52:54:00:12:34:56}}}}\n{text}")
    assert table.unknown == unknown
    assert table.may_have_address(MAC)
    assert table.may_have_address(STRANGER) is may_have_address
    assert table.to_boot(STRANGER) is None


def test_unknown_by_a_pattern(file: Path) -> None:
    table = load(file, "defaults: {kernel_args: quiet}\nunknown: {image: failsafe, vars: {a: 1}}\n")
    assert table.may_have_address(STRANGER)
    assert table.by_mac(STRANGER) is None
    assert table.to_boot(STRANGER) == Node(
        name="unknown-020000000099",
        macs=(STRANGER,),
        addresses={},
        image="failsafe",
        kernel_args=("quiet",),
        boot=Boot.NETWORK,
        boot_file=None,
        vars={"a": 1},
    )


def test_a_node_that_boots_locally_needs_no_image(file: Path) -> None:
    table = load(
        file,
        "nodes: {a: {mac: 02:00:00:00:00:01, boot: local},"
        " b: {mac: 02:00:00:00:00:02, boot_file: x.efi}}",
    )
    assert [node.image for node in table] == [None, None]


def test_every_place_that_names_an_image_is_known(file: Path) -> None:
    table = load(
        file,
        """\
defaults: {image: a}
profiles: {p: {image: b}, q: {}}
nodes: {n: {mac: 02:00:00:00:00:01, image: c}, m: {mac: 02:00:00:00:00:02}}
unknown: {image: d}
""",
    )
    places = {use.image: (use.problem.line, use.problem.key) for use in table.image_uses}
    assert places == {
        "a": (1, "defaults.image"),
        "b": (2, "profiles.p.image"),
        "c": (3, "nodes.n.image"),
        "d": (4, "unknown.image"),
    }


def test_a_folder_of_files_counts_as_one(tmp_path: Path) -> None:
    (tmp_path / "10-defaults.yaml").write_text("defaults: {image: i}\nunknown: address\n")
    (tmp_path / "20-rack.yaml").write_text("nodes: {a: {mac: 02:00:00:00:00:01, profile: p}}\n")
    (tmp_path / "30-profiles.yaml").write_text("profiles: {p: {kernel_args: quiet}}\n")
    (tmp_path / "README.txt").write_text("not: [yaml\n")
    table = load_nodes(tmp_path)
    (node,) = table
    assert (node.image, node.kernel_args, table.unknown) == ("i", ("quiet",), "address")


# What is wrong


A = "a: {mac: 02:00:00:00:00:01}"
BAD = {
    "duplicate key": (
        f"defaults: {{image: i}}\nnodes:\n  {A}\n  a: {{mac: 02:00:00:00:00:02}}\n",
        ["4:3: nodes.a: duplicate key (it is on line 3 already)"],
    ),
    "MAC": (
        "nodes: {a: {image: i, mac: 'aa:bb'}}\n",
        ["1:28: nodes.a.mac: 'aa:bb' is not a MAC address (want aa:bb:cc:dd:ee:ff)"],
    ),
    "group MAC": (
        "nodes: {a: {image: i, mac: [01:00:5e:00:00:01, 00:00:00:00:00:00]}}\n",
        [
            (
                "1:29: nodes.a.mac[0]: '01:00:5e:00:00:01' is a group or empty address "
                "(want the address of a card)"
            ),
            (
                "1:48: nodes.a.mac[1]: '00:00:00:00:00:00' is a group or empty address "
                "(want the address of a card)"
            ),
        ],
    ),
    "no MAC": (
        "nodes: {a: {image: i}, b: {image: i, mac: []}}\n",
        [
            "1:12: nodes.a.mac: is missing",
            "1:43: nodes.b.mac: a list is too short (want 1 or more)",
        ],
    ),
    "address": (
        "nodes: {a: {image: i, mac: 02:00:00:00:00:01, ip: 10.77.0}}\n",
        ["1:51: nodes.a.ip: '10.77.0' is not an IPv4 address (want 10.77.0.1)"],
    ),
    "more addresses than cards": (
        "nodes: {a: {image: i, mac: 02:00:00:00:00:01, ip: [10.0.0.1, 10.0.0.2]}}\n",
        ["1:51: nodes.a.ip: 2 addresses for 1 MACs (want one each)"],
    ),
    "unknown key": (
        "defaults: {img: i}\nnodes: {}\nnoeds: {}\n",
        [
            "1:12: defaults.img: unknown key 'img' (did you mean 'image'?)",
            "3:1: noeds: unknown key 'noeds' (did you mean 'nodes'?)",
        ],
    ),
    "loader and boot": (
        "defaults: {image: i, loader: grub2, boot: never}\n",
        [
            "1:30: defaults.loader: 'grub2' is not known (want 'ipxe', 'uki' or 'grub')",
            "1:43: defaults.boot: 'never' is not known (want 'network', 'local' or 'once')",
        ],
    ),
    "unknown": (
        "unknown: maybe\n",
        [
            (
                "1:10: unknown: 'maybe' is not known (want 'ignore' or 'address'), "
                "or 'maybe' is not a mapping of keys to values"
            )
        ],
    ),
    "profile": (
        (
            "defaults: {image: i}\nprofiles: {gpu: {}, cpu: {}}\n"
            "nodes: {a: {mac: 02:00:00:00:00:01, profile: gp}}\n"
        ),
        ["3:46: nodes.a.profile: there is no profile 'gp' (want one of: cpu, gpu)"],
    ),
    "no profile at all": (
        "defaults: {image: i}\nnodes: {a: {mac: 02:00:00:00:00:01, profile: gpu}}\n",
        ["2:46: nodes.a.profile: there is no profile 'gpu' (want one of: none is defined)"],
    ),
    "nothing to boot": (
        f"nodes:\n  {A}\n",
        [
            "2:3: nodes.a: has nothing to boot (want `image` here, in a profile or in defaults)",
        ],
    ),
    "names": (
        (
            "defaults: {image: i}\nnodes:\n"
            "  a_b: {mac: 02:00:00:00:00:01}\n"
            "  -a: {mac: 02:00:00:00:00:02}\n"
            f"  {'x' * 64}: {{mac: 02:00:00:00:00:03}}\n"
            "  a-[9-1]: {mac: 02:00:00:00:00:04}\n"
            "  a-[0-65536]: {mac: 02:00:00:00:00:05}\n"
            "  a.[0-1]: {mac: 02:00:00:00:00:06}\n"
        ),
        [
            "3:3: nodes.a_b: 'a_b' is not a node name (want node-000 or node-[000-063])",
            "4:3: nodes.-a: '-a' is not a node name (want node-000 or node-[000-063])",
            (
                f"5:3: nodes.{'x' * 64}: '{'x' * 64}' is not a node name "
                "(want node-000 or node-[000-063])"
            ),
            "6:3: nodes.a-[9-1]: '[9-1]' is not a range (want it ascending, at most 65536 nodes)",
            (
                "7:3: nodes.a-[0-65536]: '[0-65536]' is not a range "
                "(want it ascending, at most 65536 nodes)"
            ),
            "8:3: nodes.a.[0-1]: 'a.[0-1]' is not a node name (want node-000 or node-[000-063])",
        ],
    ),
    "ranges that run out": (
        (
            "defaults: {image: i}\nnodes:\n"
            "  a-[0-1]: {mac: fe:ff:ff:ff:ff:ff}\n"
            "  b-[0-1]: {mac: fe:00:00:00:00:01, ip: 255.255.255.255}\n"
        ),
        [
            (
                "3:12: nodes.a-[0-1]: 'ff:00:00:00:00:00' is a group or empty address "
                "(want the address of a card)"
            ),
            ("4:12: nodes.b-[0-1]: counting 1 up from 255.255.255.255 leaves the address space"),
        ],
    ),
    "boot files that no header can hold": (
        (
            "nodes:\n"
            "  a: {mac: fe:00:00:00:00:01, boot_file: ztp-é.sh}\n"
            "  b: {mac: fe:00:00:00:00:02, boot_file: a b}\n"
        ),
        [
            "2:42: nodes.a.boot_file: 'ztp-é.sh' is not a boot file (want ASCII without blanks)",
            "3:42: nodes.b.boot_file: 'a b' is not a boot file (want ASCII without blanks)",
        ],
    ),
    "unknown machines that boot once": (
        "unknown: {image: i, boot: once}\n",
        [
            (
                "1:27: unknown.boot: a machine outside the table cannot boot once "
                "(want `network` or `local`)"
            ),
        ],
    ),
    "taken names, MACs and addresses": (
        (
            "defaults: {image: i}\nnodes:\n"
            "  a-[0-2]: {mac: 02:00:00:00:00:01, ip: 10.0.0.1}\n"
            "  A-1: {mac: 02:00:00:00:00:02, ip: 10.0.0.3}\n"
        ),
        [
            "4:3: nodes.A-1: the name 'A-1' is taken by a-1 (nodes.yaml:3) (want each once)",
            (
                "4:9: nodes.A-1.mac: 02:00:00:00:00:02 of A-1 is taken by a-1 (nodes.yaml:3) "
                "(want each once)"
            ),
            "4:33: nodes.A-1.ip: 10.0.0.3 of A-1 is taken by a-2 (nodes.yaml:3) (want each once)",
        ],
    ),
    "kinds": (
        "defaults: []\nprofiles: {p: 5, q: []}\nnodes: [a]\n",
        [
            "1:11: defaults: a list is not a mapping of keys to values",
            "2:15: profiles.p: 5 is not a mapping of keys to values",
            "2:21: profiles.q: a list is not a mapping of keys to values",
            "3:8: nodes: a list is not a mapping of keys to values",
        ],
    ),
    "image and boot_file": (
        f"defaults: {{image: ../etc, boot_file: {'x' * 128}}}\n",
        [
            (
                "1:19: defaults.image: '../etc' cannot be an image's name "
                "(want a-z, 0-9, '.', '_' and '-', 63 at most)"
            ),
            f"1:38: defaults.boot_file: '{'x' * 128}' is too long (want 127 characters or fewer)",
        ],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file(file: Path, name: str) -> None:
    text, expected = BAD[name]
    file.write_text(text)
    assert messages(file) == [f"nodes.yaml:{line}" for line in expected]


def test_a_kernel_arg_that_ipxe_would_not_pass_on(file: Path) -> None:
    file.write_text("defaults: {image: i, kernel_args: [quiet, a || b]}\n")
    assert messages(file) == [
        (
            "nodes.yaml:1:43: defaults.kernel_args[1]: "
            "'||' would end the line in iPXE (want it out of kernel_args)"
        ),
    ]


def test_all_files_of_a_folder_are_checked_together(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "defaults: {image: i}\nunknown: ignore\nprofiles: {p: {}}\n"
        "nodes: {x: {mac: 02:00:00:00:00:01, ip: 10.0.0.1}}\n"
    )
    (tmp_path / "b.yaml").write_text(
        "defaults: {image: i}\nunknown: address\nprofiles: {p: {}}\n"
        "nodes: {y: {mac: 02:00:00:00:00:01, ip: 10.0.0.1}, x: {mac: 02:00:00:00:00:03}}\n"
    )
    (tmp_path / "c.yaml").write_text("nodes: [\n")
    first = "is in a.yaml as well (want it in one file)"
    taken = "is taken by x (a.yaml:4) (want each once)"
    assert messages(tmp_path) == [
        f"b.yaml:1:1: defaults: {first}",
        f"b.yaml:2:1: unknown: {first}",
        f"b.yaml:3:12: profiles.p: {first}",
        f"b.yaml:4:13: nodes.y.mac: 02:00:00:00:00:01 of y {taken}",
        f"b.yaml:4:37: nodes.y.ip: 10.0.0.1 of y {taken}",
        f"b.yaml:4:52: nodes.x: the name 'x' {taken}",
        "c.yaml:2:1: not valid YAML: did not find expected node content",
    ]


def test_a_mistake_brings_no_others_about(file: Path) -> None:
    """The nodes are right, though what they build on is not; other mistakes are still found."""
    file.write_text(
        "defaults: {image: i, kernel_arg: x}\n"
        "profiles: {gpu: {imag: compute}}\n"
        "nodes:\n"
        "  a: {mac: 02:00:00:00:00:01, profile: gpu}\n"
        "  b: {mac: 02:00:00:00:00:01}\n"
        "  c: {mac: 5}\n"
    )
    assert messages(file) == [
        (
            "nodes.yaml:1:22: defaults.kernel_arg: unknown key 'kernel_arg' "
            "(did you mean 'kernel_args'?)"
        ),
        "nodes.yaml:2:18: profiles.gpu.imag: unknown key 'imag' (did you mean 'image'?)",
        (
            "nodes.yaml:5:7: nodes.b.mac: 02:00:00:00:00:01 of b is taken by a (nodes.yaml:4) "
            "(want each once)"
        ),
        "nodes.yaml:6:12: nodes.c.mac: '5' is not a MAC address (want aa:bb:cc:dd:ee:ff)",
    ]


def test_folder_without_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_nodes(tmp_path)
    assert str(caught.value) == f"{tmp_path}: the folder holds no *.yaml (want at least one)"


def test_missing_file(file: Path) -> None:
    assert messages(file) == ["nodes.yaml: cannot be read: No such file or directory"]


def test_longest_range() -> None:
    names = expand_name(f"n[0-{RANGE_MAX - 1}]")
    assert (len(names), names[9], names[-1]) == (RANGE_MAX, "n9", "n65535")
    assert expand_name("plain") == ["plain"]
    with pytest.raises(ValueError, match=re.escape("'n[0-1]-[0-1]' is not a node name")):
        expand_name("n[0-1]-[0-1]")


@pytest.mark.parametrize(
    ("names", "patterns"),
    [
        ([], []),
        (["login"], ["login"]),
        (["node-000"], ["node-000"]),
        (["node-000", "node-001"], ["node-[000-001]"]),
        (["node-002", "node-000", "node-001", "node-000"], ["node-[000-002]"]),
        (["node-000", "node-002", "node-003"], ["node-000", "node-[002-003]"]),
        (["n8", "n9", "n10", "n11"], ["n[8-11]"]),
        (["n08", "n09", "n10", "n8", "n9"], ["n[8-9]", "n[08-10]"]),
        (["n99", "n100", "n099"], ["n99", "n[099-100]"]),
        (["r1n1-ib", "r1n2-ib", "r2n1-ib", "r1n2"], ["r1n2", "r1n[1-2]-ib", "r2n1-ib"]),
        (["7", "8"], ["[7-8]"]),
        (["web", "db", "n2", "n1"], ["n[1-2]", "web", "db"]),
        (
            ["02:00:00:00:00:98", "02:00:00:00:00:99", "unknown-*", "n1"],
            ["n1", "02:00:00:00:00:98", "02:00:00:00:00:99", "unknown-*"],
        ),
    ],
)
def test_names_fold_into_the_patterns_that_make_them(names: list[str], patterns: list[str]) -> None:
    assert fold_names(names) == patterns
    made = [n for p in patterns for n in ([p] if p in names else expand_name(p))]
    assert sorted(made) == sorted(set(names))


def test_no_range_is_longer_than_one_may_be() -> None:
    names = [f"n{number}" for number in range(RANGE_MAX + 1)]
    patterns = fold_names(names)
    assert patterns == [f"n[0-{RANGE_MAX - 1}]", f"n{RANGE_MAX}"]


def test_the_proxy_style_is_merged_like_every_scalar(file: Path) -> None:
    table = load(
        file,
        "defaults: {image: x, proxy_style: port4011}\n"
        "profiles: {old: {proxy_style: direct}}\n"
        "nodes:\n  a: {mac: 02:00:00:00:00:01}\n  b: {mac: 02:00:00:00:00:02, profile: old}\n"
        "unknown: {image: y}\n",
    )
    assert [node.proxy_style for node in table] == [ProxyStyle.PORT4011, ProxyStyle.DIRECT]
    pattern = table.to_boot(STRANGER)
    assert pattern is not None
    assert pattern.proxy_style is ProxyStyle.PORT4011


def test_the_loader_is_merged_like_every_scalar(file: Path) -> None:
    table = load(
        file,
        "defaults: {image: x, loader: uki}\n"
        "profiles: {old: {loader: ipxe}}\n"
        "nodes:\n"
        "  a: {mac: 02:00:00:00:00:01}\n"
        "  b: {mac: 02:00:00:00:00:02, profile: old}\n"
        "  c: {mac: 02:00:00:00:00:03, profile: old, loader: uki}\n"
        "unknown: {loader: ipxe}\n",
    )
    loaders = [node.loader for node in table]
    assert loaders == [Loader.UKI, Loader.IPXE, Loader.UKI]
    stranger = table.to_boot(STRANGER)
    assert stranger is not None
    assert stranger.loader is Loader.IPXE
