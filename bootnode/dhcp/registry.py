"""The options that people may set, by name or number, and what each holds.

The IANA registry "BOOTP Vendor Extensions and DHCP Options", with the types of the RFCs it names.
`parse_option("ntp-servers", "10.77.0.1")` gives code and value as they stand in a packet. Rules:

- A name is RFC 2132's in lower case with hyphens; a few have a second one that other servers use.
- What DHCP itself is made of (lease times, server identifier, relay information, …) is not to be
  set: those options say what the server does.
- A code without an entry here, and every option whose inside has a structure of its own, takes
  bytes as hexadecimal digits: `0x060108ff` or `06:01:08:ff`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from bootnode.dhcp import values
from bootnode.dhcp.options import VALUE_SIZE_MAX
from bootnode.dhcp.values import Route

CODE_MAX: Final = 254

# code, names, kind; `+` behind a kind means one or more of it.
_TABLE: Final = """
1 subnet-mask ip
2 time-offset int32
3 router|routers ip+
4 time-server|time-servers ip+
5 name-server|ien116-name-servers ip+
6 domain-name-server|domain-name-servers|dns-servers ip+
7 log-server|log-servers ip+
8 quotes-server|cookie-servers ip+
9 lpr-server|lpr-servers ip+
10 impress-server|impress-servers ip+
11 resource-location-server|resource-location-servers ip+
12 host-name|hostname text
14 merit-dump-file|merit-dump text
15 domain-name text
16 swap-server ip
17 root-path text
18 extensions-path text
19 ip-forwarding bool
20 non-local-source-routing bool
21 policy-filter ip-pair+
22 maximum-datagram-reassembly-size|max-dgram-reassembly uint16
23 default-ip-ttl|default-ttl uint8
24 path-mtu-aging-timeout uint32
25 path-mtu-plateau-table uint16+
26 interface-mtu|mtu uint16
27 all-subnets-are-local|all-subnets-local bool
28 broadcast-address ip
29 perform-mask-discovery bool
30 mask-supplier bool
31 perform-router-discovery|router-discovery bool
32 router-solicitation-address ip
33 static-route|static-routes ip-pair+
34 trailer-encapsulation bool
35 arp-cache-timeout uint32
36 ethernet-encapsulation|ieee802-3-encapsulation bool
37 tcp-default-ttl|default-tcp-ttl uint8
38 tcp-keepalive-interval uint32
39 tcp-keepalive-garbage bool
40 nis-domain text
41 nis-servers ip+
42 ntp-servers|ntp-server ip+
43 vendor-specific-information|vendor-specific|vendor-encapsulated-options hex
44 netbios-name-servers|netbios-name-server ip+
45 netbios-dd-server|netbios-datagram-distribution-server ip+
46 netbios-node-type uint8
47 netbios-scope text
48 x-window-font-server|font-servers ip+
49 x-window-display-manager|x-display-manager ip+
60 vendor-class-identifier|vendor-class text
62 nwip-domain-name text
63 nwip-suboptions hex
64 nisplus-domain|nis+-domain text
65 nisplus-servers|nis+-servers ip+
66 tftp-server-name text
67 bootfile-name text
68 mobile-ip-home-agent ip+
69 smtp-server ip+
70 pop3-server|pop-server ip+
71 nntp-server ip+
72 www-server ip+
73 finger-server ip+
74 irc-server ip+
75 streettalk-server ip+
76 streettalk-directory-assistance-server ip+
78 slp-directory-agent hex
79 slp-service-scope hex
85 nds-servers ip+
86 nds-tree-name text
87 nds-context text
88 bcmcs-controller-domain-names domain+
89 bcmcs-controller-addresses ip+
98 uap-servers text
99 geoconf-civic hex
100 pcode|posix-timezone text
101 tcode|tzdb-timezone text
112 netinfo-server-address ip+
113 netinfo-server-tag text
114 captive-portal|default-url text
116 auto-config uint8
117 name-service-search uint16+
119 domain-search domain+
120 sip-servers hex
121 classless-static-route|classless-static-routes route+
122 cablelabs-client-configuration hex
123 geoconf hex
125 vendor-identifying-vendor-specific-information|vivso hex
128 pxe-128 hex
129 pxe-129 hex
130 pxe-130 hex
131 pxe-131 hex
132 pxe-132 hex
133 pxe-133 hex
134 pxe-134 hex
135 pxe-135 hex
136 pana-authentication-agent ip+
137 v4-lost domain
138 capwap-ac|capwap-ac-v4 ip+
139 mos-address hex
140 mos-fqdn hex
141 sip-ua-configuration-service-domains domain+
142 andsf-address ip+
143 sztp-redirect hex
144 geoloc hex
146 rdnss-selection hex
147 dots-reference-identifier domain
148 dots-address ip+
150 tftp-server-address ip+
159 portparams hex
161 manufacturer-usage-description|mud-url text
162 dnr hex
175 ipxe-encapsulated hex
208 pxelinux-magic hex
209 pxelinux-config-file text
210 pxelinux-path-prefix text
211 pxelinux-reboot-time uint32
212 6rd hex
213 access-network-domain-name hex
220 subnet-allocation hex
221 virtual-subnet-selection hex
249 microsoft-classless-static-route route+
252 wpad|proxy-auto-discovery text
"""

_LEASE_TIMES = "the server works it out (set `lease_time`)"
_MACHINERY = "it is a part of DHCP itself (want it left out)"
_NOT_TO_BE_SET: Final[Mapping[int, str]] = {
    0: "it only pads",
    13: "EDK2 would trust it instead of what TFTP says (want it left out)",
    51: _LEASE_TIMES,
    58: _LEASE_TIMES,
    59: _LEASE_TIMES,
    **dict.fromkeys((50, 52, 53, 54, 55, 56, 57, 61, 80, 81, 82, 90, 91, 92, 118), _MACHINERY),
    **dict.fromkeys((77, 93, 94, 97, 124), "only clients send it (want it left out)"),
    108: "it would take IPv4 away from the nodes (want it left out)",
}

_HEX = re.compile(r"(?:0x)?((?:[0-9a-f]{2})+)|[0-9a-f]{2}(?::[0-9a-f]{2})+", re.IGNORECASE)


def _address(value: object) -> bytes:
    if isinstance(value, str):
        try:
            return IPv4Address(value).packed
        except ValueError:
            pass
    raise ValueError(f"'{value}' is not an IPv4 address (want 10.77.0.1)")


def _number(length: int, *, signed: bool = False) -> Callable[[object], bytes]:
    bits = 8 * length
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)

    def serialize(value: object) -> bytes:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"'{value}' is not a whole number from {low} to {high}")
        return value.to_bytes(length, "big", signed=signed)

    return serialize


def _boolean(value: object) -> bytes:
    if not isinstance(value, bool):
        raise ValueError(f"'{value}' is not true or false")  # noqa: TRY004  # as all the others
    return bytes((value,))


def _text(value: object) -> bytes:
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value):
        raise ValueError(f"'{value}' is not text")
    try:
        raw = str(value).encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"'{value}' has a character beyond Latin-1") from None
    if not str(value).isprintable():
        raise ValueError(f"{value!r} holds control characters (want text on one line)")
    return raw


def _bytes(value: object) -> bytes:
    match = _HEX.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"'{value}' is not bytes in hexadecimal (want 0x060108ff or 06:01:08:ff)")
    return bytes.fromhex(match[1] or match[0].replace(":", ""))


def _pair(value: object) -> bytes:
    parts = str(value).split()
    if len(parts) != 2:
        raise ValueError(f"'{value}' is not two addresses (want '10.77.0.0 10.77.0.1')")
    return b"".join(map(_address, parts))


def _route(value: object) -> bytes:
    network_text, _, gateway = str(value).partition(" via ")
    try:
        network = IPv4Network(network_text.strip())
        return values.serialize_routes((Route(network=network, gateway=IPv4Address(gateway)),))
    except ValueError:
        raise ValueError(f"'{value}' is not a route (want '10.0.0.0/8 via 10.77.0.1')") from None


def _domain(value: object) -> bytes:
    return values.serialize_domains((str(value),))


_KINDS: Final[Mapping[str, Callable[[object], bytes]]] = {
    "ip": _address,
    "ip-pair": _pair,
    "route": _route,
    "domain": _domain,
    "text": _text,
    "bool": _boolean,
    "hex": _bytes,
    "uint8": _number(1),
    "uint16": _number(2),
    "uint32": _number(4),
    "int32": _number(4, signed=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One option as people set it."""

    code: int
    name: str
    serialize: Callable[[object], bytes]
    """Of one value; raises ValueError with what is wanted."""
    is_list: bool
    """Whether several values may stand one behind the other."""


def _read_table() -> tuple[dict[int, Setting], dict[str, Setting]]:
    by_code: dict[int, Setting] = {}
    by_name: dict[str, Setting] = {}
    for line in _TABLE.strip().splitlines():
        code, names, kind = line.split()
        setting = Setting(
            code=int(code),
            name=names.partition("|")[0],
            serialize=_KINDS[kind.removesuffix("+")],
            is_list=kind.endswith("+"),
        )
        by_code[setting.code] = setting
        by_name |= dict.fromkeys(names.split("|"), setting)
    return by_code, by_name


SETTINGS_BY_CODE, SETTINGS_BY_NAME = _read_table()


def find_setting(key: str) -> Setting:
    """The option of this name or number.

    Raises:
        ValueError: there is none, or it is not to be set.
    """
    if not key.isdecimal():
        if key in SETTINGS_BY_NAME:
            return SETTINGS_BY_NAME[key]
        nearest = difflib.get_close_matches(key, SETTINGS_BY_NAME, n=1)
        hint = f"did you mean '{nearest[0]}'?" if nearest else "want its number"
        raise ValueError(f"there is no DHCP option called '{key}' ({hint})")
    code = int(key)
    if code > CODE_MAX:
        raise ValueError(f"{key} is no DHCP option (want 1 to {CODE_MAX})")
    if code in _NOT_TO_BE_SET:
        raise ValueError(f"option {code} is not to be set: {_NOT_TO_BE_SET[code]}")
    unknown = Setting(code=code, name=key, serialize=_bytes, is_list=False)
    return SETTINGS_BY_CODE.get(code, unknown)


# EDK2 reads option 67 as a C string; unterminated, it overwrites the byte behind the value.
_NUL_TERMINATED: Final = frozenset({66, 67})


def parse_option(key: str, value: object) -> tuple[int, bytes]:
    """Code and serialized value of an option as it stands in a configuration file.

    Raises:
        ValueError: no such option, or not a value that it can have.
    """
    setting = find_setting(key)
    several = isinstance(value, list | tuple)
    if several and not setting.is_list:
        raise ValueError(f"option {setting.code} ({setting.name}) takes one value, not a list")
    items = list(value) if isinstance(value, list | tuple) else [value]
    if not items:
        raise ValueError(f"option {setting.code} ({setting.name}) needs a value")
    raw = b"".join(map(setting.serialize, items)) + b"\0" * (setting.code in _NUL_TERMINATED)
    if len(raw) > VALUE_SIZE_MAX:
        raise ValueError(f"has {len(raw)} bytes, and an option holds {VALUE_SIZE_MAX} at most")
    return setting.code, raw
