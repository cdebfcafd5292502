"""A process of the lab as its owner sees it: state by the supervisor, output by its log file."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bootnode.errors import LabError
from bootnode.lab import control
from bootnode.lab.config import LabConfig
from bootnode.lab.control import ProcessStatus

TAIL_LINES = 30
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class LabProcess:
    """A process started by the lab's supervisor."""

    config: LabConfig
    status: ProcessStatus
    """As it was when this value was made; `poll` asks anew."""

    @property
    def name(self) -> str:
        """Its name in the lab and that of its log file."""
        return self.status.name

    @property
    def log_text(self) -> str:
        """What it wrote since it started."""
        raw = self.config.log(self.name).read_bytes()
        return raw[self.status.log_offset :].decode(errors="replace")

    @property
    def seconds(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.status.started

    def poll(self) -> int | None:
        """Its exit status, a negative signal number, or None while it runs.

        Raises:
            LabError: the lab is down, or another process has the name now.
        """
        request = {"do": "status", "name": self.name}
        status = ProcessStatus.from_json(control.call(self.config.control_socket, request))
        if status.started != self.status.started:
            raise LabError(f"'{self.name}' was started again; this is about its first life")
        return status.exit_status

    def wait(self, timeout_s: float) -> int:
        """Wait for its end, and return its exit status.

        Raises:
            LabError: it still runs after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while (exit_status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise LabError(f"'{self.name}' still runs after {timeout_s:g} s")
            time.sleep(_POLL_S)
        return exit_status

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens if it has ended.

        Raises:
            LabError: the lab is down.
        """
        request = {"do": "signal", "name": self.name, "signal": int(number)}
        control.call(self.config.control_socket, request)

    def wait_log(self, pattern: str, *, timeout_s: float) -> re.Match[str]:
        """Wait until its output matches the regular expression.

        Raises:
            LabError: it ended first, or did not in `timeout_s`; with the last lines of the log.
        """
        return self.wait_text(pattern, lambda: self.log_text, what="log", timeout_s=timeout_s)

    def wait_text(
        self, pattern: str, read: Callable[[], str], *, what: str, timeout_s: float
    ) -> re.Match[str]:
        """Wait until the text that `read` returns matches, as long as this process lives.

        Raises:
            LabError: it ended first, or nothing matched in `timeout_s`; with the text's last lines.
        """
        wanted = re.compile(pattern, re.MULTILINE)
        deadline = time.monotonic() + timeout_s
        while True:
            # In this order: what it wrote just before its end still counts.
            exit_status, late = self.poll(), time.monotonic() > deadline
            if match := wanted.search(text := read()):
                return match
            if exit_status is not None or late:
                why = f"after {timeout_s:g} s" if late else f"and it ended, status {exit_status}"
                raise LabError(
                    f"'{self.name}': no {pattern!r} in its {what} {why}; its last lines:\n"
                    + last_lines(text)
                )
            time.sleep(_POLL_S)


def last_lines(text: str) -> str:
    """The last TAIL_LINES lines of `text` that are not blank."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-TAIL_LINES:])


def tail(path: Path) -> str:
    """The last lines of a log; empty if there is none."""
    try:
        return last_lines(path.read_text(errors="replace"))
    except FileNotFoundError:
        return ""
