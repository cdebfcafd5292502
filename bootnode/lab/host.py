"""Another machine on a lab's switch: a server that is already there, or a client of ours.

It is the process that plugs its tap into the switch: `unshare --net` gives that process a network
stack of its own, and whoever belongs to the host enters its namespaces.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path
from typing import TYPE_CHECKING

from bootnode.errors import LabError
from bootnode.lab.process import LabProcess

if TYPE_CHECKING:
    from bootnode.lab.lab import Lab

NIC = "eth0"
_COMMAND_TIMEOUT_S = 5.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A network stack of its own inside the lab, with one NIC named eth0."""

    lab: Lab
    name: str
    plug: LabProcess

    def spawn(
        self, command: Sequence[str | Path], *, name: str, env: Mapping[str, str] | None = None
    ) -> LabProcess:
        """Start a process on this host; otherwise like `Lab.spawn`."""
        return self.lab.spawn(self._enter(command), name=name, env=env)

    def run(
        self, command: Sequence[str | Path], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Run something on this host and wait for it, like `Lab.run`."""
        return self.lab.run(self._enter(command), timeout_s)

    def command(self, command: Sequence[str | Path]) -> list[str]:
        """The command line that runs `command` on this host, like `Lab.command`."""
        return self.lab.command(self._enter(command))

    def configure(self, address: IPv4Interface | None, *, timeout_s: float) -> None:
        """Wait for the NIC, and set it up.

        Raises:
            LabError: it does not come up in `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while self.run(["ip", "link", "set", NIC, "up"], _COMMAND_TIMEOUT_S).returncode:
            if self.plug.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"host '{self.name}' has no {NIC}:\n{self.plug.log_text}")
            time.sleep(_POLL_S)
        self._ip("link", "set", "lo", "up")
        if address is not None:
            self._ip("addr", "add", str(address), "broadcast", "+", "dev", NIC)

    def _ip(self, *arguments: str) -> None:
        done = self.run(["ip", *arguments], _COMMAND_TIMEOUT_S)
        if done.returncode:
            raise LabError(f"host '{self.name}': ip {' '.join(arguments)}: {done.stderr.strip()}")

    def _enter(self, command: Sequence[str | Path]) -> list[str]:
        return [
            *("nsenter", f"--target={self.plug.status.pid}", "--net", "--mount", "--"),
            # Entering a mount namespace goes to its root folder.
            *("env", f"--chdir={Path.cwd()}", "--"),
            *(str(word) for word in command),
        ]
