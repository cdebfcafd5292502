"""The serial console of a node: its bytes as readable text, and a person's way onto it."""

from __future__ import annotations

import os
import re
import select
import socket
import sys
import termios
import tty
from pathlib import Path

from bootnode.errors import LabError
from bootnode.lab.process import last_lines

# Ctrl-], as telnet has it.
ESCAPE = b"\x1d"
_CONNECT_TIMEOUT_S = 5.0

# ECMA-48 control sequences (firmware paints whole screens with them), and the shorter escapes.
_CONTROL = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[()][0-9A-B]|\x1b[@-Z\\-_=>a-z]|[\x00\x07\r]")


def clean(raw: bytes) -> str:
    """Console output without terminal control sequences, bells, NULs and carriage returns."""
    return _CONTROL.sub(b"", raw).decode(errors="replace")


def open_unix(path: Path, *, timeout_s: float) -> socket.socket:
    """A connection to a Unix socket whose path may be longer than the 108 bytes of unix(7).

    Raises:
        OSError: nobody listens there.
    """
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        connection.connect(f"/proc/self/fd/{folder}/{path.name}")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(folder)
    return connection


def attach_terminal(console_socket: Path, console_log: Path) -> None:
    """Connect this terminal with a node's console, after its last lines, until Ctrl-] is typed.

    Raises:
        LabError: the node is off.
    """
    try:
        connection = open_unix(console_socket, timeout_s=_CONNECT_TIMEOUT_S)
    except OSError as error:
        raise LabError(f"{console_log.stem}: no console ({error}); is the node on?") from error
    with connection:
        _write(1, last_lines(clean(console_log.read_bytes())).encode() + b"\n")
        before = termios.tcgetattr(0) if sys.stdin.isatty() else None
        if before is not None:
            tty.setraw(0)
        try:
            copy_both_ways(connection, 0, 1)
        finally:
            if before is not None:
                termios.tcsetattr(0, termios.TCSADRAIN, before)


def copy_both_ways(connection: socket.socket, source: int, sink: int) -> None:
    """Copy between a console and two file descriptors until ESCAPE, or either side ends."""
    while True:
        ready, _, _ = select.select([connection.fileno(), source], [], [])
        if connection.fileno() in ready:
            output = connection.recv(4096)
            if not output:
                return
            _write(sink, output)
        if source in ready:
            typed = os.read(source, 4096)
            before, escape, _ = typed.partition(ESCAPE)
            connection.sendall(before)
            if escape or not typed:
                return


def _write(sink: int, output: bytes) -> None:
    while output:
        output = output[os.write(sink, output) :]
