"""A node that was switched on: its console as text, its power by qemu's monitor (QMP)."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from bootnode.errors import LabError
from bootnode.lab.console import clean, open_unix
from bootnode.lab.process import LabProcess

POWER_ON_TIMEOUT_S = 10.0
POWER_OFF_TIMEOUT_S = 5.0
_MONITOR_TIMEOUT_S = 5.0
_CONSOLE_TIMEOUT_S = 5.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningVm:
    """A node and the qemu process that is it."""

    process: LabProcess

    @property
    def name(self) -> str:
        """The node's name."""
        return self.process.name

    @property
    def seconds(self) -> float:
        """Seconds since it was switched on."""
        return self.process.seconds

    @property
    def is_on(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    @property
    def console_text(self) -> str:
        """All it wrote on its serial line since power-on, without terminal control sequences."""
        return clean(self.process.config.console(self.name).read_bytes())

    def wait_console(self, pattern: str, timeout_s: float) -> re.Match[str]:
        """Wait until the console matches the regular expression.

        Raises:
            LabError: the node went off first, or nothing matched; with the console's last lines.
        """
        return self.process.wait_text(
            pattern, lambda: self.console_text, what="console", timeout_s=timeout_s
        )

    def run(self, command: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run a line of shell on the console, where a shell waits, and return what it wrote.

        What other programs write to the console meanwhile is in between. Nobody else may be on the
        console: qemu lets in one at a time.

        Raises:
            LabError: the node is off, or the command did not end in `timeout_s`.
        """
        # Marks with a %s in the middle, so that the echo of what is typed here is none.
        line = f"printf '\\n=%s=\\n' begin; {command}; printf '\\n=%s= %s\\n' end $?\n"
        try:
            with open_unix(
                self.process.config.console_socket(self.name), timeout_s=_CONSOLE_TIMEOUT_S
            ) as console:
                console.sendall(line.encode())
                console.setblocking(False)
                heard = bytearray()
                match = self.process.wait_text(
                    r"(?s)^=begin=\n(.*?)\n?^=end= (\d+)$",
                    lambda: _hear(console, heard),
                    what=f"console after `{command}`",
                    timeout_s=timeout_s,
                )
        except OSError as error:
            raise LabError(f"node '{self.name}': no console ({error}); is it on?") from error
        return subprocess.CompletedProcess(command, int(match[2]), match[1], "")

    def wait_powered_on(self) -> None:
        """Wait until qemu answers on its monitor.

        Raises:
            LabError: it ended, or is silent; with what it said.
        """
        deadline = time.monotonic() + POWER_ON_TIMEOUT_S
        while True:
            try:
                return self._monitor("query-status")
            except LabError as error:
                exit_status = self.process.poll()
                if exit_status is not None or time.monotonic() > deadline:
                    state = "runs silently" if exit_status is None else f"status {exit_status}"
                    said = self.process.log_text.strip()
                    raise LabError(
                        f"node '{self.name}' does not start ({state}): {said}"
                    ) from error
            time.sleep(_POLL_S)

    def reset(self) -> None:
        """Press the reset button.

        Raises:
            LabError: the node is off.
        """
        self._monitor("system_reset")

    def power_off(self) -> None:
        """Pull the plug; harmless when it is off.

        Raises:
            LabError: the lab is down.
        """
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(POWER_OFF_TIMEOUT_S)

    def _monitor(self, command: str) -> None:
        path = self.process.config.monitor_socket(self.name)
        try:
            with open_unix(path, timeout_s=_MONITOR_TIMEOUT_S) as monitor:
                _qmp(monitor, command)
        except OSError as error:
            raise LabError(
                f"node '{self.name}' does not answer on its monitor ({error}); is it switched on?"
            ) from error


def _hear(console: socket.socket, heard: bytearray) -> str:
    """Add what is there to `heard`, and return all of it: unread, it would stop the node."""
    with contextlib.suppress(BlockingIOError):
        while data := console.recv(4096):
            heard += data
    return clean(bytes(heard))


def _qmp(monitor: socket.socket, command: str) -> None:
    """Run one command by the QEMU Machine Protocol: greeting, capabilities, command."""
    with monitor.makefile("rwb") as stream:
        stream.readline()
        for step in ("qmp_capabilities", command):
            stream.write(json.dumps({"execute": step}).encode() + b"\n")
            stream.flush()
            reply: dict[str, Any] = {}
            while "return" not in reply:  # events may come in between
                line = stream.readline()
                reply = json.loads(line or "{}")
                if not line or "error" in reply:
                    raise LabError(f"qemu's monitor refuses {step}: {line.decode()}")
