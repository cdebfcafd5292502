"""Reading the YAML files people write, and checking them, with the place of every value.

Scalars resolve by the YAML 1.2 core schema, narrowed so that what looks like text stays text:
`52:54:00:12:34:56`, `no`, `12:30:45`, `2024-01-01`, `010`, `0x10` and `1e3` are text; a whole
number is decimal without leading zeros, a fraction has a point. Keys are always text. Merge keys
(`<<`) and tags such as `!!binary` do not exist here.

`load_yaml` raises ConfigError for a file that cannot be read at all. What can be read around, such
as a duplicate key, is collected in `Document.problems`, and `validate` raises it together with
everything the model refuses, so that a person sees all of it at once.

Limits: 16 MiB a file, 32 levels of nesting, 10,000 values through aliases.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar, Union, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bootnode.errors import ConfigError, Problem

KeyPath: TypeAlias = tuple[str | int, ...]
"""Where a value is: mapping keys as text, list positions counted from 0."""
Mark: TypeAlias = tuple[int, int]
"""Line and column, both counted from 1."""
Model = TypeVar("Model", bound=BaseModel)

MAX_FILE_BYTES = 16 << 20
MAX_DEPTH = 32
MAX_ALIASED_VALUES = 10_000

_PLAIN = (
    (re.compile(r"~|null|Null|NULL|"), lambda _text: None),
    (re.compile(r"true|True|TRUE"), lambda _text: True),
    (re.compile(r"false|False|FALSE"), lambda _text: False),
    (re.compile(r"0|[-+]?[1-9][0-9]{0,18}"), int),
    (re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)\.[0-9]*)(?:[eE][-+]?[0-9]{1,3})?"), float),
)
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One YAML file as plain data, and where each part of it stands."""

    file: str
    """The file's name as messages show it."""
    data: dict[str, Any]
    values: Mapping[KeyPath, Mark]
    """Where each value begins; the empty path is the top of the file."""
    keys: Mapping[KeyPath, Mark]
    """Where the key of each mapping entry begins; list items have none."""
    problems: tuple[Problem, ...] = ()
    """What was wrong but could be read around, such as duplicate keys."""

    def problem(self, path: KeyPath, message: str, *, at_key: bool = False) -> Problem:
        """A problem with the value (or the key) at `path`, or with the nearest thing above it."""
        marks = self.keys if at_key else self.values
        known = path
        while known and known not in marks:
            known = known[:-1]
        line, column = marks.get(known) or self.values.get(known, (0, 0))
        return Problem(file=self.file, line=line, column=column, key=dotted(path), message=message)


def dotted(path: KeyPath) -> str:
    """The key path as messages show it: `nodes.node-000.kernel_args[2]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def load_yaml(path: Path) -> Document:
    """Read a YAML file whose top is a mapping.

    Raises:
        ConfigError: the file cannot be opened, is too big, not UTF-8, not YAML, empty, or a list.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _unreadable(str(path), f"cannot be read: {error.strerror}") from error
    return parse_yaml(raw, str(path))


def parse_yaml(raw: bytes, file: str) -> Document:
    """Read YAML whose top is a mapping; `file` names it in messages.

    Raises:
        ConfigError: it is too big, not UTF-8, not YAML, empty, nested too deep, or not a mapping.
    """
    reader = _Reader(file, _events(_decode(raw, file), file))
    return reader.read()


def _decode(raw: bytes, file: str) -> str:
    if len(raw) > MAX_FILE_BYTES:
        raise _unreadable(file, f"is larger than {MAX_FILE_BYTES >> 20} MiB")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        place = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        message = f"is not UTF-8 text (byte 0x{raw[error.start]:02x})"
        raise _unreadable(file, message, place) from error


def _events(text: str, file: str) -> list[yaml.Event]:
    # Events and not yaml.compose(): libyaml's composer recurses in C and overflows the stack.
    try:
        return list(yaml.parse(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        raise _unreadable(file, f"not valid YAML: {error.problem}", place) from error
    except yaml.YAMLError as error:
        raise _unreadable(file, f"not valid YAML: {str(error).splitlines()[0]}") from error


def _unreadable(file: str, message: str, place: Mark = (0, 0)) -> ConfigError:
    line, column = place
    return ConfigError([Problem(file=file, line=line, column=column, key="", message=message)])


def _mark(event: yaml.Event) -> Mark:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (0, 0)


class _Reader:
    """Builds plain data from parser events and notes where each part was."""

    def __init__(self, file: str, events: list[yaml.Event]) -> None:
        self._file = file
        self._events = events
        self._next = 0
        self._anchors: dict[str, int] = {}
        self._following_alias = False
        self._aliased_values = 0
        self._values: dict[KeyPath, Mark] = {}
        self._keys: dict[KeyPath, Mark] = {}
        self._problems: list[Problem] = []

    def read(self) -> Document:
        self._pop()  # StreamStart
        if isinstance(self._pop(), yaml.StreamEndEvent):
            raise _unreadable(self._file, "is empty (want keys and values)")
        top = self._events[self._next]
        data = self._value(())
        if data is None:
            raise _unreadable(self._file, "is empty (want keys and values)")
        if not isinstance(data, dict):
            message = "want keys and values at the top of the file"
            raise _unreadable(self._file, message, _mark(top))
        self._pop()  # DocumentEnd
        after = self._pop()
        if not isinstance(after, yaml.StreamEndEvent):
            raise _unreadable(self._file, "want one document, without '---' inside", _mark(after))
        return Document(
            file=self._file,
            data=data,
            values=self._values,
            keys=self._keys,
            problems=tuple(self._problems),
        )

    def _pop(self) -> yaml.Event:
        event = self._events[self._next]
        self._next += 1
        return event

    def _value(self, path: KeyPath) -> Any:
        index, event = self._next, cast(yaml.NodeEvent, self._pop())
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path)
        self._values[path] = _mark(event)
        if len(path) > MAX_DEPTH:
            raise _unreadable(self._file, f"is nested deeper than {MAX_DEPTH} levels", _mark(event))
        self._count_aliased(event)
        if event.anchor is not None:
            self._anchors[event.anchor] = index
        if isinstance(event, yaml.MappingStartEvent):
            return dict(self._entries(path))
        if isinstance(event, yaml.SequenceStartEvent):
            return self._items(path)
        return self._scalar(cast(yaml.ScalarEvent, event), path)

    def _alias(self, event: yaml.AliasEvent, path: KeyPath) -> Any:
        """Read the anchored value once more; an anchor inside itself ends at MAX_DEPTH."""
        if event.anchor not in self._anchors:
            raise _unreadable(self._file, f"no anchor '&{event.anchor}' before this", _mark(event))
        resume, outer = self._next, self._following_alias
        self._next, self._following_alias = self._anchors[event.anchor], True
        value = self._value(path)
        self._next, self._following_alias = resume, outer
        return value

    def _count_aliased(self, event: yaml.Event) -> None:
        self._aliased_values += self._following_alias
        if self._aliased_values > MAX_ALIASED_VALUES:
            message = f"aliases stand for more than {MAX_ALIASED_VALUES} values"
            raise _unreadable(self._file, message, _mark(event))

    def _items(self, path: KeyPath) -> list[Any]:
        items: list[Any] = []
        while not isinstance(self._events[self._next], yaml.SequenceEndEvent):
            items.append(self._value((*path, len(items))))
        self._pop()
        return items

    def _entries(self, path: KeyPath) -> Iterator[tuple[str, Any]]:
        lines: dict[str, int] = {}  # of this mapping alone: its path may be a duplicate itself
        while not isinstance(key := self._pop(), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent) or not key.value:
                raise _unreadable(self._file, "a key must be text", _mark(key))
            key_path = (*path, key.value)
            self._keys[key_path] = line, _ = _mark(key)
            if key.value in lines:
                first = lines[key.value]
                self._report(key, key_path, f"duplicate key (it is on line {first} already)")
            lines.setdefault(key.value, line)
            yield key.value, self._value(key_path)

    def _scalar(self, event: yaml.ScalarEvent, path: KeyPath) -> Any:
        if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            self._report(event, path, f"the tag '{event.tag}' is not used here")
        plain = event.implicit[0] and event.tag is None
        return _resolve(event.value) if plain else event.value

    def _report(self, event: yaml.Event, path: KeyPath, message: str) -> None:
        line, column = _mark(event)
        problem = Problem(
            file=self._file, line=line, column=column, key=dotted(path), message=message
        )
        self._problems.append(problem)


def _resolve(text: str) -> Any:
    """What a plain scalar means."""
    # Nearly every scalar is text, and its first character says so.
    if text and text[0] not in "~nNtTfF+-.0123456789":
        return text
    for pattern, construct in _PLAIN:
        if pattern.fullmatch(text):
            return construct(text)
    return text


def validate(model: type[Model], document: Document) -> Model:
    """The document as an instance of `model`.

    Raises:
        ConfigError: everything wrong with the document, each problem at its place.
    """
    problems = list(document.problems)
    try:
        checked = model.model_validate(document.data)
    except ValidationError as error:
        problems += _model_problems(model, document, error.errors(include_url=False))
    if problems:
        raise ConfigError(problems)
    return checked


def _model_problems(
    model: type[BaseModel], document: Document, errors: list[ErrorDetails]
) -> Iterator[Problem]:
    # A union reports what each of its members refused. What is wrong inside a value says more than
    # that it might have been of another kind.
    messages: dict[tuple[KeyPath, bool], list[str]] = {}
    for error in errors:
        path, at_key = _place(document, error)
        same_place = messages.setdefault((path, at_key), [])
        if (message := _message(model, path, error)) not in same_place:
            same_place.append(message)
    above = {path[:length] for path, _ in messages if path for length in range(1, len(path))}
    for (path, at_key), texts in messages.items():
        if path not in above:
            yield document.problem(path, ", or ".join(texts), at_key=at_key)


def _place(document: Document, error: ErrorDetails) -> tuple[KeyPath, bool]:
    """The key path of an error, and whether the key itself is wrong."""
    path: KeyPath = ()
    for part in error["loc"]:
        # Not every part is in the file: unions add the member's name, mappings `[key]`.
        if (*path, part) in document.values:
            path = (*path, part)
    if error["type"] == "missing":
        return (*path, error["loc"][-1]), False
    return path, error["type"] == "extra_forbidden" or error["loc"][-1:] == ("[key]",)


def _message(model: type[BaseModel], path: KeyPath, error: ErrorDetails) -> str:
    given, context = error["input"], error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            return _unknown_key(str(path[-1]), _known_keys(model, path[:-1]))
        case "missing":
            return "is missing"
        case "value_error" | "assertion_error":
            return str(context["error"])
        case "string_type" if isinstance(given, int | float):
            return f"{_shown(given)} is not text (put quotes around it)"
        case "literal_error" | "enum":
            return f"{_shown(given)} is not known (want {context['expected']})"
        case kind if kind in _WANTED:
            return f"{_shown(given)} is not {_WANTED[kind]}"
        case kind if kind in _BOUNDS:
            template, name = _BOUNDS[kind]
            return f"{_shown(given)} is {template.format(context[name])}"
    text = error["msg"]
    return f"{_shown(given)}: {text[:1].lower()}{text[1:]}"


_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "ip_v4_address": "an IPv4 address",
    "ip_v6_address": "an IPv6 address",
    "ip_any_address": "an IP address",
}
"""Pydantic's error types, and what each would have liked to see."""

_BOUNDS = {
    "greater_than": ("too small (want more than {})", "gt"),
    "greater_than_equal": ("too small (want at least {})", "ge"),
    "less_than": ("too big (want less than {})", "lt"),
    "less_than_equal": ("too big (want at most {})", "le"),
    "string_too_short": ("too short (want {} characters or more)", "min_length"),
    "string_too_long": ("too long (want {} characters or fewer)", "max_length"),
    "string_pattern_mismatch": ("not of the form {}", "pattern"),
    "too_short": ("too short (want {} or more)", "min_length"),
    "too_long": ("too long (want {} or fewer)", "max_length"),
}
"""Pydantic's error types for a value out of bounds: the message, and where the bound is."""


def _shown(given: Any) -> str:
    """A value as its author would recognise it."""
    match given:
        case None:
            return "nothing"
        case bool():
            return str(given).lower()
        case str():
            return f"'{given}'"
        case dict():
            return "a mapping"
        case list():
            return "a list"
    return str(given)


def _unknown_key(key: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(key, known, n=1)
    if nearest:
        return f"unknown key '{key}' (did you mean '{nearest[0]}'?)"
    return f"unknown key '{key}' (known: {', '.join(known)})"


def _known_keys(model: type[BaseModel], path: KeyPath) -> list[str]:
    """The keys that a mapping at `path` may have."""
    annotations: list[Any] = [model]
    for part in path:
        annotations = [inner for outer in annotations for inner in _inside(outer, part)]
    return [
        field.alias or name
        for annotation in _members(annotations)
        if _is_model(annotation)
        for name, field in annotation.model_fields.items()
    ]


def _inside(annotation: Any, part: str | int) -> list[Any]:
    """The types that `annotation` allows under one key or list position."""
    found: list[Any] = []
    for member in _members([annotation]):
        arguments = get_args(member)
        if _is_model(member):
            fields = member.model_fields
            found += [f.annotation for name, f in fields.items() if part in (name, f.alias)]
        elif isinstance(get_origin(member), type) and issubclass(get_origin(member), Mapping):
            found.append(arguments[1])
        elif arguments and isinstance(part, int):
            found.append(arguments[0])
    return found


def _members(annotations: Iterable[Any]) -> Iterator[Any]:
    """The annotations with unions and Annotated taken apart."""
    for annotation in annotations:
        if get_origin(annotation) in (Union, types.UnionType):
            yield from _members(get_args(annotation))
        elif get_origin(annotation) is Annotated:
            yield from _members(get_args(annotation)[:1])
        else:
            yield annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
