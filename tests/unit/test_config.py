"""bootnoded.yaml: good files, and bad ones with the exact messages."""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from bootnode.addresses import AddressRange
from bootnode.config import (
    Config,
    HttpSettings,
    NetworkSettings,
    TftpSettings,
    check_image_name,
    check_kernel_arg,
    load_config,
    parse_duration,
    parse_ipv4,
)
from bootnode.errors import ConfigError

SHIPPED = Path(__file__).parents[2] / "config" / "bootnoded.yaml"
NETWORKS = "networks: [{interface: tap0, dhcp: full}]\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "bootnoded.yaml"


def load(file: Path, text: str) -> Config:
    file.write_text(text)
    return load_config(file)


def messages(file: Path, text: str) -> list[str]:
    """What is wrong with a file, without its folder."""
    with pytest.raises(ConfigError) as caught:
        load(file, text)
    return str(caught.value).replace(f"{file.parent}/", "").splitlines()


def test_shipped_example() -> None:
    config = load_config(SHIPPED)
    assert config == Config.model_construct(
        state_dir=Path("/var/lib/bootnode"),
        nodes=SHIPPED.parent / "nodes.yaml",
        files=None,
        networks=(
            NetworkSettings.model_construct(
                interface="tap0",
                dhcp="full",
                pool=(AddressRange.parse("10.77.0.100-10.77.0.199"),),
                lease_time=3600,
                router=IPv4Address("10.77.0.1"),
                dns=(IPv4Address("10.77.0.1"),),
            ),
        ),
        http=HttpSettings(port=8080),
        tftp=TftpSettings(port=69),
    )


def test_the_least_file(file: Path) -> None:
    config = load(file, NETWORKS)
    (network,) = config.networks
    assert (network.pool, network.lease_time, network.dns) == ((), 3600, ())
    assert (config.http.port, config.tftp.port) == (8080, 69)
    assert config.nodes == file.parent / "nodes.yaml"
    assert config.state_dir == Path("/var/lib/bootnode")
    assert config.socket == Path("/var/lib/bootnode/bootnoded.sock")
    assert config.images == Path("/var/lib/bootnode/images")


def test_everything(file: Path) -> None:
    config = load(
        file,
        """
state_dir: state
nodes: /etc/nodes.d
files: srv
networks:
  - {interface: eth0, dhcp: "off"}
  - {interface: eth1, dhcp: proxy}
  - interface: eth2
    dhcp: full
    pool: 10.77.0.100 - 10.77.0.199
    lease_time: 90m
    router: 10.77.0.1
    dns: 10.77.0.2
    domain: lab.example
    ntp: [10.77.0.3, 10.77.0.4]
    mtu: 9000
http: {port: 80}
tftp: {port: 6969}
""",
    )
    folder = file.parent
    assert config.state_dir == folder / "state"
    assert config.nodes == Path("/etc/nodes.d")
    assert config.files == folder / "srv"
    assert [network.dhcp for network in config.networks] == ["off", "proxy", "full"]
    full = config.networks[2]
    assert full.pool == (AddressRange.parse("10.77.0.100-10.77.0.199"),)
    assert full.lease_time == 5400
    assert full.dns == (IPv4Address("10.77.0.2"),)
    assert full.ntp == (IPv4Address("10.77.0.3"), IPv4Address("10.77.0.4"))
    assert (full.domain, full.mtu) == ("lab.example", 9000)
    assert (config.http.port, config.tftp.port) == (80, 6969)


def test_several_pools_and_a_subnet_behind_relays(file: Path) -> None:
    config = load(
        file,
        """
networks:
  - interface: eth0
    dhcp: full
    pool: [10.77.0.10-10.77.0.20, 10.77.0.40-10.77.0.50]
    authoritative: false
    probe: false
    options: {ntp-servers: [10.77.0.1, 10.77.0.2], 43: 0x010a, 224: "aa:bb", domain-search: lab}
  - {subnet: 10.78.0.0/24, dhcp: full, pool: 10.78.0.10-10.78.0.20, relays: 10.78.0.1}
""",
    )
    near, far = config.networks
    assert [str(each) for each in near.pool] == ["10.77.0.10-10.77.0.20", "10.77.0.40-10.77.0.50"]
    assert (near.authoritative, near.probe, near.name) == (False, False, "eth0")
    assert near.options == {
        42: bytes((10, 77, 0, 1, 10, 77, 0, 2)),
        43: b"\x01\x0a",
        224: b"\xaa\xbb",
        119: b"\x03lab\0",
    }
    assert (far.interface, far.name, far.authoritative) == (None, "10.78.0.0/24", True)
    assert far.relays == (IPv4Address("10.78.0.1"),)


def test_dhcp_off_needs_no_quotes(file: Path) -> None:
    """YAML 1.1 reads `off` as false."""
    assert load(file, "networks: [{interface: a, dhcp: off}]").networks[0].dhcp == "off"


def test_state_dir_of_the_command_line_wins(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(NETWORKS + "state_dir: /var/lib/elsewhere\n")
    monkeypatch.chdir(file.parent)
    config = load_config(Path(file.name), state_dir=Path("mine"))
    assert config.state_dir == file.parent / "mine"
    assert config.nodes == file.parent / "nodes.yaml"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("90", 90),
        (90, 90),
        ("90s", 90),
        ("10m", 600),
        ("1h", 3600),
        ("2 d", 172800),
        (" 1h ", 3600),
    ],
)
def test_durations(value: object, seconds: int) -> None:
    assert parse_duration(value) == seconds


@pytest.mark.parametrize("value", ["", "h", "1w", "-1h", "1.5h", "1h30m", True, None, 1.5])
def test_what_is_no_duration(value: object) -> None:
    message = f"'{value}' is not a duration (want 90s, 10m, 1h or 1d)"
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_duration(value)


@pytest.mark.parametrize("value", ["10.77.0", "10.77.0.256", "::1", "10.77.0.1/24", 10, None])
def test_what_is_no_address(value: object) -> None:
    message = f"'{value}' is not an IPv4 address (want 10.77.0.1)"
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_ipv4(value)


@pytest.mark.parametrize("name", ["failsafe", "a", "rocky-8.10_x", "9lives", "x" * 63])
def test_image_names(name: str) -> None:
    assert check_image_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "Rocky", ".hidden", "..", "a/b", "a b", "-a", "ü", "x" * 65, "a\n"]
)
def test_what_is_no_image_name(name: str) -> None:
    message = f"'{name}' cannot be an image's name (want a-z, 0-9, '.', '_' and '-', 63 at most)"
    with pytest.raises(ValueError, match=re.escape(message)):
        check_image_name(name)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("", "'' is not a kernel argument (want printable ASCII)"),
        (" quiet", "' quiet' is not a kernel argument (want printable ASCII)"),
        ("a\nb", "'a\\nb' is not a kernel argument (want printable ASCII)"),
        ("ü", "'ü' is not a kernel argument (want printable ASCII)"),
        ("a #b", "'#b' would end the line in iPXE (want it out of kernel_args)"),
        ("a || b", "'||' would end the line in iPXE (want it out of kernel_args)"),
        ("a && b", "'&&' would end the line in iPXE (want it out of kernel_args)"),
        ("a ; b", "';' would end the line in iPXE (want it out of kernel_args)"),
        ("${net0/mac}", "'${net0/mac}' would be expanded by iPXE (want it without '${' or '\\')"),
        ("a\\", "'a\\' would be expanded by iPXE (want it without '${' or '\\')"),
    ],
)
def test_kernel_args_that_ipxe_would_not_pass_on(argument: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_kernel_arg(argument)


@pytest.mark.parametrize("argument", ["quiet", "a#b", "x=a;b", "a||b", "$x", "root=LABEL=my disk"])
def test_kernel_args_that_are_fine(argument: str) -> None:
    assert check_kernel_arg(argument) == argument


NETWORK = "networks:\n  - interface: tap0\n    dhcp: full\n"

BAD = {
    "no networks": ("http: {port: 80}\n", ["1:1: networks: is missing"]),
    "empty networks": ("networks: []\n", ["1:11: networks: a list is too short (want 1 or more)"]),
    "unknown key": (
        NETWORK + "state_dr: /x\n",
        ["4:1: state_dr: unknown key 'state_dr' (did you mean 'state_dir'?)"],
    ),
    "unknown key in a network": (
        NETWORK + "    gateway: 10.77.0.1\n",
        [
            (
                "4:5: networks[0].gateway: unknown key 'gateway' (known: interface, subnet, "
                "dhcp, proxy_style, pool, lease_time, authoritative, probe, relays, router, dns, "
                "domain, ntp, mtu, options)"
            )
        ],
    ),
    "duplicate key": (
        NETWORK + "    dhcp: proxy\n",
        ["4:5: networks[0].dhcp: duplicate key (it is on line 3 already)"],
    ),
    "mode": (
        "networks: [{interface: tap0, dhcp: on}]\n",
        ["1:36: networks[0].dhcp: 'on' is not known (want 'full', 'proxy', 'auto' or 'off')"],
    ),
    "everything at once": (
        (
            "networks:\n"
            "  - interface: an-interface-name-too-long\n"
            "    dhcp: full\n"
            "    pool: 10.77.0.9-10.77.0.1\n"
            "    lease_time: 10s\n"
            "    router: 10.77.0.999\n"
            "    dns: [10.77.0.1, x]\n"
            "    domain: not a domain\n"
            "    mtu: 100\n"
            "http: {port: 0}\n"
            "tftp: {port: 65536}\n"
        ),
        [
            (
                "2:16: networks[0].interface: 'an-interface-name-too-long' is too long "
                "(want 15 characters or fewer)"
            ),
            (
                "4:11: networks[0].pool: '10.77.0.9-10.77.0.1' runs backwards "
                "(want the lower address first)"
            ),
            "5:17: networks[0].lease_time: '10s' is too small (want at least 120)",
            "6:13: networks[0].router: '10.77.0.999' is not an IPv4 address (want 10.77.0.1)",
            "7:22: networks[0].dns[1]: 'x' is not an IPv4 address (want 10.77.0.1)",
            "8:13: networks[0].domain: 'not a domain' is not a domain name (want lab.example)",
            "9:10: networks[0].mtu: 100 is too small (want at least 576)",
            "10:14: http.port: 0 is too small (want at least 1)",
            "11:14: tftp.port: 65536 is too big (want at most 65535)",
        ],
    ),
    "neither interface nor subnet": (
        "networks:\n  - {dhcp: full}\n  - {interface: a, subnet: 10.78.0.0/24, dhcp: full}\n",
        [
            "2:5: networks[0]: want `interface`, or `subnet` if only relays lead to it",
            "3:5: networks[1]: want `interface`, or `subnet` if only relays lead to it",
        ],
    ),
    "only subnets behind relays": (
        "networks: [{subnet: 10.78.0.0/24, dhcp: full}]\n",
        ["1:11: networks: no network has an `interface` (want one that relays reach us by)"],
    ),
    "subnets that overlap": (
        NETWORK
        + "  - {subnet: 10.78.0.0/16, dhcp: full}\n  - {subnet: 10.78.1.0/24, dhcp: full}\n",
        ["2:3: networks: the subnets 10.78.0.0/16 and 10.78.1.0/24 overlap (want them apart)"],
    ),
    "not a subnet": (
        NETWORK + "  - {subnet: 10.78.0.1/24, dhcp: full}\n",
        ["4:14: networks[1].subnet: '10.78.0.1/24' is not a subnet (want 10.78.0.0/24)"],
    ),
    "a pool beside its subnet": (
        NETWORK + "  - {subnet: 10.78.0.0/24, dhcp: full, pool: 10.77.0.1-10.77.0.9}\n",
        ["4:5: networks[1]: the pool 10.77.0.1-10.77.0.9 is not within 10.78.0.0/24"],
    ),
    "pools that overlap": (
        NETWORK + "    pool: [10.77.0.50-10.77.0.60, 10.77.0.10-10.77.0.50]\n",
        [
            (
                "2:5: networks[0]: the pool's ranges 10.77.0.10-10.77.0.50 and "
                "10.77.0.50-10.77.0.60 overlap"
            )
        ],
    ),
    "a pool too big": (
        NETWORK + "    pool: 10.0.0.0-10.255.255.255\n",
        ["2:5: networks[0]: the pool holds more than 1048576 addresses (want fewer)"],
    ),
    "options": (
        NETWORK + "    options:\n"
        "      ntp-server: [10.77.0.1, x]\n"
        "      ntp-servers: 10.77.0.1\n"
        "      ntp_servers: 10.77.0.1\n"
        "      42: 10.77.0.2\n"
        "      43: hello\n"
        "      51: 3600\n",
        [
            "5:19: networks[0].options.ntp-server: 'x' is not an IPv4 address (want 10.77.0.1)",
            (
                "7:20: networks[0].options.ntp_servers: there is no DHCP option called "
                "'ntp_servers' (did you mean 'ntp-servers'?)"
            ),
            "8:11: networks[0].options.42: option 42 is here already under another name",
            (
                "9:11: networks[0].options.43: 'hello' is not bytes in hexadecimal "
                "(want 0x060108ff or 06:01:08:ff)"
            ),
            (
                "10:11: networks[0].options.51: option 51 is not to be set: "
                "the server works it out (set `lease_time`)"
            ),
        ],
    ),
    "options that are no mapping": (
        NETWORK + "    options: [42]\n",
        ["4:14: networks[0].options: want a mapping of option names or numbers to values"],
    ),
    "pool without full": (
        "networks: [{interface: tap0, dhcp: proxy, pool: 10.77.0.1-10.77.0.2}]\n",
        ["1:12: networks[0]: a pool goes with `dhcp: full` or `auto`, not with `dhcp: proxy`"],
    ),
    "auto behind relays": (
        NETWORK + "  - {subnet: 10.78.0.0/24, dhcp: auto}\n",
        ["4:5: networks[1]: `dhcp: auto` asks on the wire (want an `interface`, or full or proxy)"],
    ),
    "a proxy style without proxy": (
        "networks: [{interface: tap0, dhcp: full, proxy_style: direct}]\n",
        ["1:12: networks[0]: proxy_style goes with `dhcp: proxy` or `auto`, not with `dhcp: full`"],
    ),
    "a proxy style that is none": (
        "networks: [{interface: tap0, dhcp: proxy, proxy_style: '4011'}]\n",
        [
            "1:56: networks[0].proxy_style: '4011' is not known (want 'direct' or 'port4011')",
        ],
    ),
    "interface twice": (
        "networks: [{interface: a, dhcp: full}, {interface: a, dhcp: off}]\n",
        ["1:11: networks: interface a is listed twice (want each once)"],
    ),
    "lease too long": (
        NETWORK + "    lease_time: 31d\n",
        ["4:17: networks[0].lease_time: '31d' is too big (want at most 2592000)"],
    ),
    "not YAML": ("networks: [\n", ["2:1: not valid YAML: did not find expected node content"]),
    "empty": ("", ["is empty (want keys and values)"]),
    "a list": ("- a\n", ["1:1: want keys and values at the top of the file"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file(file: Path, name: str) -> None:
    text, expected = BAD[name]
    place = "bootnoded.yaml:"
    assert messages(file, text) == [
        place + (" " if line.startswith("is ") else "") + line for line in expected
    ]


def test_missing_file(file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert str(caught.value) == f"{file}: cannot be read: No such file or directory"
