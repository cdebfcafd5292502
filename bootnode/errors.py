"""The errors bootnode raises.

BootnodeError
├── PacketError    a peer sent bytes that are not what they claim to be
├── ConfigError    one or more problems in a configuration file or an image recipe
├── ImageError     an image cannot be built, found or read
├── KeysError      the server's secret for node keys cannot be read or made
├── NodeFilesError one or more templates cannot be rendered for a node
├── StartError     the daemon cannot start: a port in use, an interface missing
├── TemplateError  a template cannot be read or rendered
└── LabError       the virtual lab cannot do what was asked

Every message says what is wrong, where, and what to do. Only the command line prints or exits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


class BootnodeError(Exception):
    """Base of every error that bootnode raises on purpose."""


class PacketError(BootnodeError):
    """A peer sent bytes that cannot be read as the message they claim to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong in a file a person wrote."""

    file: str
    line: int
    """Counted from 1; 0 when the whole file is meant."""
    column: int
    """Counted from 1; 0 when the whole line or file is meant."""
    key: str
    """The dotted path of the key, such as `nodes.node-000.mac`; empty for the file itself."""
    message: str
    """What is wrong, and in brackets what is wanted."""

    def __str__(self) -> str:
        place = self.file
        if self.line:
            place += f":{self.line}"
            if self.column:
                place += f":{self.column}"
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class ConfigError(BootnodeError):
    """Everything that is wrong with a configuration, all at once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.file, p.line, p.column, p.key)))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ImageError(BootnodeError):
    """An image cannot be built, found or read."""


class KeysError(BootnodeError):
    """The secret that node keys are made from cannot be read or made."""


class TemplateError(BootnodeError):
    """What is wrong with one template, and in which line."""

    def __init__(self, name: str, line: int, message: str) -> None:
        """`name` is its path below its folder; `line` counts from 1, 0 means the whole file."""
        self.name, self.line, self.message = name, line, message
        super().__init__(f"{name}:{line}: {message}" if line else f"{name}: {message}")


class NodeFilesError(BootnodeError):
    """Everything that is wrong with the templates of a tree."""

    def __init__(self, problems: Iterable[TemplateError]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


class StartError(BootnodeError):
    """The daemon cannot start as configured."""


class LabError(BootnodeError):
    """The virtual lab cannot do what was asked."""
