from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from bootnode import yamlmarks
from bootnode.errors import ConfigError
from bootnode.yamlmarks import Document, dotted, load_yaml, parse_yaml, validate


def read(raw: bytes, model: type[BaseModel] | None) -> None:
    document = parse_yaml(raw, "f.yaml")
    if model:
        validate(model, document)


def problems_of(raw: bytes, model: type[BaseModel] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(raw, model)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("52:54:00:12:34:56", "52:54:00:12:34:56"),
        ("525400123e56", "525400123e56"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("no", "no"),
        ("off", "off"),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("1e3", "1e3"),
        ("10.77.0.1", "10.77.0.1"),
        ("nan", "nan"),
        ("99999999999999999999", "99999999999999999999"),
        ("0", 0),
        ("1450", 1450),
        ("-3", -3),
        ("+3", 3),
        ("1.5", 1.5),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("1.5e-3", 0.0015),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'5'", "5"),
        ('""', ""),
        ("!!str 5", "5"),
        ("! 5", "5"),
        ("[a, 1]", ["a", 1]),
        ("{b: {c: }}", {"b": {"c": None}}),
    ],
)
def test_scalars_resolve_as_in_yaml_1_2_and_text_stays_text(text: str, value: Any) -> None:
    read = parse_yaml(f"a: {text}\n".encode(), "f.yaml").data["a"]
    assert read == value
    assert type(read) is type(value)


def test_every_value_and_key_has_its_place() -> None:
    document = parse_yaml(b"a:\n  b: [x,\n    y]\n8080: z\n", "f.yaml")
    assert document.data == {"a": {"b": ["x", "y"]}, "8080": "z"}
    assert document.values == {
        (): (1, 1),
        ("a",): (2, 3),
        ("a", "b"): (2, 6),
        ("a", "b", 0): (2, 7),
        ("a", "b", 1): (3, 5),
        ("8080",): (4, 7),
    }
    assert document.keys == {("a",): (1, 1), ("a", "b"): (2, 3), ("8080",): (4, 1)}


def test_aliases_stand_for_what_they_name() -> None:
    document = parse_yaml(b"a: &x {b: 1}\nc: *x\nd: [*x, *x]\n", "f.yaml")
    assert document.data == {"a": {"b": 1}, "c": {"b": 1}, "d": [{"b": 1}, {"b": 1}]}
    assert document.values["d", 1, "b"] == (1, 11)


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "f.yaml: is empty (want keys and values)"),
        (b"# nothing\n", "f.yaml: is empty (want keys and values)"),
        (b"~\n", "f.yaml: is empty (want keys and values)"),
        (b"\n- a\n", "f.yaml:2:1: want keys and values at the top of the file"),
        (b"a: \xff\n", "f.yaml:1:4: is not UTF-8 text (byte 0xff)"),
        (b"a: 1\nb: \xff\n", "f.yaml:2:4: is not UTF-8 text (byte 0xff)"),
        (b"a: b: c", "f.yaml:1:5: not valid YAML: mapping values are not allowed in this context"),
        (b"a: 1\n---\nb: 2", "f.yaml:2:1: want one document, without '---' inside"),
        (b"a: *x", "f.yaml:1:4: no anchor '&x' before this"),
        (b"? [a]\n: 3", "f.yaml:1:3: a key must be text"),
        (b"? \n: 3", "f.yaml:1:2: a key must be text"),
        (b"a: &x [*x]", "f.yaml:1:4: is nested deeper than 32 levels"),
    ],
)
def test_what_cannot_be_read_is_one_problem(raw: bytes, problem: str) -> None:
    assert problems_of(raw) == [problem]


def test_control_characters_are_a_problem_without_a_place() -> None:
    (problem,) = problems_of(b"a: \x01")
    assert problem.startswith("f.yaml: not valid YAML: ")


@pytest.mark.parametrize("opening", ["a: " + "[" * 500, "a: " + "{b: " * 500, "- " * 500])
def test_deep_nesting_ends(opening: str) -> None:
    assert problems_of(opening.encode())


def test_nesting_that_fits_a_c_stack_but_not_us_ends() -> None:
    raw = b"a: " + b"[" * 50 + b"]" * 50
    assert problems_of(raw) == ["f.yaml:1:36: is nested deeper than 32 levels"]


def test_aliases_do_not_multiply_without_end() -> None:
    raw = b"a0: &a0 [" + b"1," * 10 + b"]\n"
    for level in range(1, 6):
        raw += b"a%d: &a%d [%s]\n" % (level, level, b",".join([b"*a%d" % (level - 1)] * 10))
    (problem,) = problems_of(raw)
    assert "aliases stand for more than 10000 values" in problem


def test_a_file_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamlmarks, "MAX_FILE_BYTES", 1 << 20)
    assert problems_of(b"a: " + b"x" * (1 << 20)) == ["f.yaml: is larger than 1 MiB"]


def test_duplicate_keys_and_tags_are_collected() -> None:
    document = parse_yaml(b"a: 1\nb: !!binary aGk=\na: 2\nc: {d: 1, d: 2}\n", "f.yaml")
    assert [str(problem) for problem in document.problems] == [
        "f.yaml:2:4: b: the tag 'tag:yaml.org,2002:binary' is not used here",
        "f.yaml:3:1: a: duplicate key (it is on line 1 already)",
        "f.yaml:4:11: c.d: duplicate key (it is on line 4 already)",
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    assert parse_yaml(b"\xef\xbb\xbfa: 1\n", "f.yaml").data == {"a": 1}


def test_a_file_is_read_under_its_own_name(tmp_path: Path) -> None:
    file = tmp_path / "nodes.yaml"
    file.write_text("a: 1\n")
    assert load_yaml(file).file == str(file)


def test_a_file_that_cannot_be_opened_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read: No such file or directory"):
        load_yaml(tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("nodes", "node-000", "mac"), "nodes.node-000.mac"),
        (("kernel_args", 2), "kernel_args[2]"),
        (("networks", 0, "dns", 1), "networks[0].dns[1]"),
    ],
)
def test_a_key_path_reads_as_in_messages(path: tuple[str | int, ...], text: str) -> None:
    assert dotted(path) == text


def test_a_problem_falls_back_to_what_is_above_it() -> None:
    document = parse_yaml(b"a:\n  b: 1\n", "f.yaml")
    cases = {
        (("a", "b"), False): (2, 6),
        (("a", "b"), True): (2, 3),
        (("a", "gone", "deeper"), False): (2, 3),
        (("gone",), True): (1, 1),
    }
    for (path, at_key), place in cases.items():
        problem = document.problem(path, "is wrong", at_key=at_key)
        assert (problem.line, problem.column) == place


def test_a_document_that_came_from_no_file_has_no_places() -> None:
    document = Document(file="f.yaml", data={}, values={}, keys={})
    assert str(document.problem(("a",), "is wrong")) == "f.yaml: a: is wrong"


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Network(Strict):
    interface: str
    dhcp: Literal["full", "proxy", "off"] = "full"
    mtu: int | None = Field(default=None, ge=576, lt=9001)
    router: IPv4Address | None = None


class Node(Strict):
    mac: str
    image: str = "failsafe"
    kernel_args: Annotated[tuple[str, ...], BeforeValidator(lambda value: value)] = ()

    @field_validator("mac")
    @classmethod
    def _check(cls, value: str) -> str:
        if value.count(":") != 5:
            raise ValueError(f"'{value}' is not a MAC address")
        return value


class Image(Strict):
    image: str


class Config(Strict):
    networks: tuple[Network, ...] = Field(default=(), max_length=9)
    nodes: Mapping[str, Node] = {}
    profiles: dict[str, dict[str, Node]] = {}
    unknown: Literal["ignore"] | Image = "ignore"
    names: Sequence[str] | str = ()
    ratio: float = 1.0
    watch: bool = True
    from_: int = Field(default=0, alias="from")


def test_a_valid_document_becomes_a_model() -> None:
    document = parse_yaml(b"networks: [{interface: tap0}]\nunknown: {image: x}\n", "f.yaml")
    config = validate(Config, document)
    assert config.networks[0].interface == "tap0"
    assert config.unknown == Image(image="x")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"htp: 1", ["1:1: htp: unknown key 'htp' (known: networks, nodes,"]),
        (b"form: 1", ["1:1: form: unknown key 'form' (did you mean 'from'?)"]),
        (
            b"nodes:\n  a: {mac: 'a:b:c:d:e:f', imgae: x}",
            ["2:27: nodes.a.imgae: unknown key 'imgae' (did you mean 'image'?)"],
        ),
        (
            b"profiles: {p: {mac: {mac: 'a:b:c:d:e:f', mack: x}}}",
            ["1:42: profiles.p.mac.mack: unknown key 'mack' (did you mean 'mac'?)"],
        ),
        (
            b"networks:\n  - interface: 12\n    dhpc: off\n    mtu: abc",
            [
                "2:16: networks[0].interface: 12 is not text (put quotes around it)",
                "3:5: networks[0].dhpc: unknown key 'dhpc' (did you mean 'dhcp'?)",
                "4:10: networks[0].mtu: 'abc' is not a whole number",
            ],
        ),
        (b"networks: [{}]", ["1:12: networks[0].interface: is missing"]),
        (
            b"networks: [{interface: a, dhcp: ful}]",
            ["1:33: networks[0].dhcp: 'ful' is not known (want 'full', 'proxy' or 'off')"],
        ),
        (
            b"networks: [{interface: a, mtu: 1, router: x}, {interface: b, mtu: 9001}]",
            [
                "1:32: networks[0].mtu: 1 is too small (want at least 576)",
                "1:43: networks[0].router: 'x' is not an IPv4 address",
                "1:67: networks[1].mtu: 9001 is too big (want less than 9001)",
            ],
        ),
        (b"nodes: {a: {mac: aa}}", ["1:18: nodes.a.mac: 'aa' is not a MAC address"]),
        (b"nodes: [a]", ["1:8: nodes: a list is not a mapping of keys to values"]),
        (
            b"nodes: {a: {mac: 'a:b:c:d:e:f', kernel_args: [a, true]}}",
            ["1:50: nodes.a.kernel_args[1]: true is not text (put quotes around it)"],
        ),
        (b"nodes: {a: {mac: }}", ["1:18: nodes.a.mac: nothing is not text"]),
        (b"nodes: {a: 5}", ["1:12: nodes.a: 5 is not a mapping of keys to values"]),
        (b"networks: 5", ["1:11: networks: 5 is not a list"]),
        (b"ratio: x", ["1:8: ratio: 'x' is not a number"]),
        (b"watch: {}", ["1:8: watch: a mapping is not true or false"]),
        (
            b"networks: [" + b"{interface: a}," * 10 + b"]",
            ["1:11: networks: a list is too long (want 9 or fewer)"],
        ),
        (
            b"unknown: address",
            [
                (
                    "1:10: unknown: 'address' is not known (want 'ignore'), or "
                    "'address' is not a mapping of keys to values"
                )
            ],
        ),
        (b"a: 1\na: 2", ["2:1: a: duplicate key", "2:1: a: unknown key"]),
        (b"watch: true\nwatch: false", ["2:1: watch: duplicate key (it is on line 1 already)"]),
    ],
)
def test_each_mistake_is_named_at_its_place(raw: bytes, expected: list[str]) -> None:
    found = [problem.removeprefix("f.yaml:") for problem in problems_of(raw, Config)]
    assert len(found) == len(expected), found
    for problem, start in zip(found, expected, strict=True):
        assert problem.startswith(start)


class Odd(Strict):
    tens: int = Field(default=0, multiple_of=10)
    keyed: dict[int, str] = {}
    short: list[str] = []


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"tens: 7", "f.yaml:1:7: tens: 7: input should be a multiple of 10"),
        (b"keyed: {x: a}", "f.yaml:1:9: keyed.x: 'x' is not a whole number"),
        (b"short: [[b]]", "f.yaml:1:9: short[0]: a list is not text"),
    ],
)
def test_what_has_no_wording_of_ours_is_still_named(raw: bytes, problem: str) -> None:
    assert problems_of(raw, Odd) == [problem]


class Box(Strict):
    items: list[Annotated[Node, Field(description="a node")] | int] | str = []
    same: list[str] | tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (
            b"items: [{mac: 'a:b:c:d:e:f', imag: x}]",
            "f.yaml:1:30: items[0].imag: unknown key 'imag' (did you mean 'image'?)",
        ),
        (b"same: 5", "f.yaml:1:7: same: 5 is not a list"),
    ],
)
def test_a_union_names_what_is_wrong_inside_and_says_nothing_twice(
    raw: bytes, problem: str
) -> None:
    assert problems_of(raw, Box) == [problem]
