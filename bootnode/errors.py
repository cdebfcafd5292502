"""The errors bootnode raises.

BootnodeError
├── PacketError    a peer sent bytes that are not what they claim to be
├── ConfigError    one or more problems in a configuration file or an image recipe
├── ImageError     an image cannot be built, found or read
├── StartError     the daemon cannot start: a port in use, an interface missing
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


class StartError(BootnodeError):
    """The daemon cannot start as configured."""


class LabError(BootnodeError):
    """The virtual lab cannot do what was asked."""
