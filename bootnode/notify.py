"""Telling systemd how the daemon is: sd_notify(3) over $NOTIFY_SOCKET, and the watchdog."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


def notify(state: str, *, environment: Mapping[str, str] = os.environ) -> None:
    """Send a state such as `READY=1`; does nothing when not started by systemd."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # the abstract namespace, unix(7)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect(address)
        sock.sendall(state.encode())


def reloading() -> str:
    """The state that begins a reload; `READY=1` ends it."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


def watchdog_interval_s(*, environment: Mapping[str, str] = os.environ) -> float | None:
    """How often to send `WATCHDOG=1`: half of what systemd waits; None when it does not wait."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or environment.get("WATCHDOG_PID", "") not in (
        "",
        str(os.getpid()),
    ):
        return None
    return int(microseconds) / 2_000_000
