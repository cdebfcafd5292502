"""The options that people may set: each type with right values and wrong ones."""

from __future__ import annotations

import re

import pytest

from bootnode.dhcp import options as opt
from bootnode.dhcp.registry import SETTINGS_BY_CODE, SETTINGS_BY_NAME, parse_option

RIGHT = {
    ("subnet-mask", "255.255.255.0"): (1, "ffffff00"),
    ("time-offset", -3600): (2, "fffff1f0"),
    ("router", "10.77.0.1"): (3, "0a4d0001"),
    ("routers", ("10.77.0.1", "10.77.0.2")): (3, "0a4d00010a4d0002"),
    ("12", "node"): (12, "6e6f6465"),
    ("ip-forwarding", True): (19, "01"),
    ("static-routes", "10.0.0.0 10.77.0.1"): (33, "0a0000000a4d0001"),
    ("mtu", 9000): (26, "2328"),
    ("default-ip-ttl", 64): (23, "40"),
    ("path-mtu-plateau-table", (68, 576)): (25, "00440240"),
    ("vendor-specific", "06:01:08:ff"): (43, "060108ff"),
    ("43", "0x060108FF"): (43, "060108ff"),
    ("43", "060108ff"): (43, "060108ff"),
    ("domain-search", ("lab.example", "example")): (
        119,
        "036c6162076578616d706c6500076578616d706c6500",
    ),
    ("121", "10.0.0.0/8 via 10.77.0.1"): (121, "080a0a4d0001"),
    ("bootfile-name", "ztp.sh"): (67, "7a74702e736800"),
    ("tcode", "Europe/Berlin"): (101, b"Europe/Berlin".hex()),
    ("224", "0xaabb"): (224, "aabb"),
}


@pytest.mark.parametrize(("key", "value"), RIGHT)
def test_right_values(key: str, value: object) -> None:
    code, raw = parse_option(key, value)
    assert (code, raw.hex()) == RIGHT[key, value]


WRONG = {
    ("router", "10.77.0"): "'10.77.0' is not an IPv4 address (want 10.77.0.1)",
    ("router", 10): "'10' is not an IPv4 address (want 10.77.0.1)",
    ("router", ()): "option 3 (router) needs a value",
    ("mtu", ("1500",)): "option 26 (interface-mtu) takes one value, not a list",
    ("mtu", "big"): "'big' is not a whole number from 0 to 65535",
    ("mtu", 65536): "'65536' is not a whole number from 0 to 65535",
    ("mtu", True): "'True' is not a whole number from 0 to 65535",
    ("time-offset", 1 << 31): "'2147483648' is not a whole number from -2147483648 to 2147483647",
    ("ip-forwarding", 1): "'1' is not true or false",
    ("host-name", ""): "'' is not text",
    ("host-name", True): "'True' is not text",
    ("host-name", "a\nb"): "'a\\nb' holds control characters (want text on one line)",
    ("host-name", "\u65e5"): "'\u65e5' has a character beyond Latin-1",
    ("host-name", "x" * 256): "has 256 bytes, and an option holds 255 at most",
    ("43", 10): "'10' is not bytes in hexadecimal (want 0x060108ff or 06:01:08:ff)",
    ("43", "6:1"): "'6:1' is not bytes in hexadecimal (want 0x060108ff or 06:01:08:ff)",
    ("33", "10.0.0.0"): "'10.0.0.0' is not two addresses (want '10.77.0.0 10.77.0.1')",
    ("121", "10.0.0.1/8 via 10.77.0.1"): (
        "'10.0.0.1/8 via 10.77.0.1' is not a route (want '10.0.0.0/8 via 10.77.0.1')"
    ),
    ("119", "a..b"): "'a..b' is not a domain name (want labels of 1 to 63 characters)",
    ("ntp-serverz", 1): (
        "there is no DHCP option called 'ntp-serverz' (did you mean 'ntp-server'?)"
    ),
    ("zzz", 1): "there is no DHCP option called 'zzz' (want its number)",
    ("255", 1): "255 is no DHCP option (want 1 to 254)",
    ("0", 1): "option 0 is not to be set: it only pads",
    ("51", 1): "option 51 is not to be set: the server works it out (set `lease_time`)",
    ("82", 1): "option 82 is not to be set: it is a part of DHCP itself (want it left out)",
    ("93", 1): "option 93 is not to be set: only clients send it (want it left out)",
}


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_wrong_values(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=re.escape(WRONG[key, value])):
        parse_option(key, value)


def test_names_agree_with_the_codec() -> None:
    """What is read in messages under a name is set under the same."""
    for code, setting in SETTINGS_BY_CODE.items():
        known = opt.OPTIONS_BY_CODE.get(code)
        assert known is None or known.name in (setting.name, "vendor-specific-information")
    assert len(SETTINGS_BY_NAME) > len(SETTINGS_BY_CODE) > 110


def test_every_value_has_a_length_that_its_codec_reads() -> None:
    for key, value in RIGHT:
        code, raw = parse_option(key, value)
        known = opt.OPTIONS_BY_CODE.get(code)
        assert known is None or len(raw) in known.lengths
