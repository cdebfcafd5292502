"""The lab's control channel: one JSON line each way over the supervisor's Unix socket.

Requests are objects with a `do` key (see supervisor.py); a reply with an `error` key becomes a
LabError at the caller. Whoever may open the socket may run anything inside the lab, so file
permissions decide, and the lab belongs to root.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from bootnode.errors import LabError

MESSAGE_BYTES_MAX = 1 << 20
# The supervisor answers at once; it only reads, spawns and signals.
REPLY_TIMEOUT_S = 5.0
_UCRED = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStatus:
    """One process of the lab, as the supervisor knows it."""

    name: str
    pid: int
    """Its number inside the lab's process namespace."""
    command: tuple[str, ...]
    started: float
    """`time.monotonic()` at its start; one clock for the whole machine."""
    log_offset: int
    """Where this start's output begins in its log file, bytes."""
    exit_status: int | None
    """None while it runs; a negative number is the signal that ended it."""

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**{**fields, "command": tuple(fields["command"])})

    def to_json(self) -> dict[str, Any]:
        """A JSON object of its fields."""
        return asdict(self)


def connect(path: Path, *, timeout_s: float) -> socket.socket:
    """A stream connection to a Unix socket.

    Raises:
        OSError: nobody listens there.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def peer_pid(connection: socket.socket) -> int:
    """The process that listens at the other end, as our own process namespace numbers it."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, _, _ = _UCRED.unpack(raw)
    return int(pid)


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """Read one message; None if the other side closes without one.

    Raises:
        LabError: it is no JSON object on one line of at most MESSAGE_BYTES_MAX.
    """
    with connection.makefile("rb") as stream:
        line = stream.readline(MESSAGE_BYTES_MAX)
    if not line:
        return None
    try:
        message = json.loads(line)
    except ValueError:
        raise LabError(
            f"the lab's control socket said {line[:80]!r} (want one JSON line)"
        ) from None
    if not isinstance(message, dict):
        raise LabError(f"the lab's control socket said {line[:80]!r} (want an object)")
    return message


def send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    """Write one message."""
    connection.sendall(json.dumps(message).encode() + b"\n")


def call(path: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the supervisor at `path`, and return its reply.

    Raises:
        LabError: no lab answers there, or it refused.
    """
    try:
        with connect(path, timeout_s=REPLY_TIMEOUT_S) as connection:
            send(connection, request)
            reply = receive(connection)
    except OSError as error:
        raise LabError(
            f"{path.parent}: no lab answers here ({error}); start one with `bootnode lab up`"
        ) from error
    if reply is None:
        raise LabError(f"{path.parent}: the lab went down while it was asked to {request['do']}")
    if "error" in reply:
        raise LabError(str(reply["error"]))
    return reply
