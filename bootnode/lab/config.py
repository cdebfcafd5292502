"""What a lab looks like: its folder, its taps, how its machines are accelerated.

Everything of a lab lives in its folder, so that several labs run side by side:

    lab.json        this configuration, for commands that attach later
    control.sock    the supervisor's control socket
    run/            sockets and firmware variables; removed when the lab goes down
    logs/           one file a process
    consoles/       one file a node: all it ever wrote on its serial line
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Literal, Self, get_args

from bootnode.errors import LabError

Accel = Literal["auto", "tcg", "kvm"]

# A Unix socket path has 108 bytes with its final NUL (unix(7)); vde_plug resolves what it is given,
# so no relative path helps: `/run/127.ctl/ctl` has to fit behind the folder.
FOLDER_LENGTH_MAX = 88
# What IFNAMSIZ leaves of a network interface's name.
TAP_NAME_LENGTH_MAX = 15
DEFAULT_TAPS = (("tap0", IPv4Interface("10.77.0.1/24")),)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabConfig:
    """One lab."""

    folder: Path
    """Absolute; the lab's own, made if missing."""
    taps: tuple[tuple[str, IPv4Interface], ...] = DEFAULT_TAPS
    """Interface name and address of the server on each; one VDE switch each."""
    accel: Accel = "auto"
    """`auto` takes KVM where a trial machine really runs, and emulation elsewhere."""

    def __post_init__(self) -> None:
        if not self.folder.is_absolute():
            raise LabError(f"{self.folder}: the lab's folder must be an absolute path")
        if len(str(self.folder)) > FOLDER_LENGTH_MAX:
            raise LabError(
                f"{self.folder}: too long for the Unix sockets in it"
                f" (want at most {FOLDER_LENGTH_MAX} characters)"
            )
        if self.accel not in get_args(Accel):
            raise LabError(f"accel: '{self.accel}' is unknown (want auto, tcg or kvm)")
        names = [name for name, _ in self.taps]
        if not names or len(set(names)) != len(names):
            raise LabError(
                f"taps: {', '.join(names) or 'none'} (want at least one, each name once)"
            )
        for name in names:
            if not 0 < len(name) <= TAP_NAME_LENGTH_MAX or "/" in name:
                raise LabError(
                    f"taps: '{name}' is no interface name (want 1 to {TAP_NAME_LENGTH_MAX} letters)"
                )

    @property
    def control_socket(self) -> Path:
        """Where the supervisor listens."""
        return self.folder / "control.sock"

    @property
    def run(self) -> Path:
        """Sockets and other things that end with the lab."""
        return self.folder / "run"

    def log(self, name: str) -> Path:
        """The output of the process `name`."""
        return self.folder / "logs" / f"{name}.log"

    def console(self, node: str) -> Path:
        """What the node `node` wrote on its serial line."""
        return self.folder / "consoles" / f"{node}.log"

    def console_socket(self, node: str) -> Path:
        """Where a person talks to the node `node`."""
        return self.run / f"{node}.console"

    def monitor_socket(self, node: str) -> Path:
        """Where qemu takes commands about the node `node`."""
        return self.run / f"{node}.monitor"

    def switch_socket(self, tap: str | None = None) -> Path:
        """The VDE switch that `tap`, or for None the first tap, is plugged into.

        Raises:
            LabError: the lab has no such tap.
        """
        names = [name for name, _ in self.taps]
        tap = names[0] if tap is None else tap
        if tap not in names:
            raise LabError(f"'{tap}' is no tap of the lab (want one of {', '.join(names)})")
        return self.run / f"{names.index(tap)}.ctl"

    def save(self) -> None:
        """Make the folder and write `lab.json`, for `load`."""
        for part in (self.run, self.folder / "logs", self.folder / "consoles"):
            part.mkdir(parents=True, exist_ok=True)
        document = {"taps": [[name, str(a)] for name, a in self.taps], "accel": self.accel}
        (self.folder / "lab.json").write_text(json.dumps(document) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The configuration of the lab in `folder`.

        Raises:
            LabError: there is none, or its file is not ours.
        """
        path = folder / "lab.json"
        try:
            document = json.loads(path.read_text())
            taps = tuple((str(name), IPv4Interface(a)) for name, a in document["taps"])
            return cls(folder=folder, taps=taps, accel=document["accel"])
        except FileNotFoundError:
            raise LabError(f"{folder}: no lab here; start one with `bootnode lab up`") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LabError(f"{path}: not a lab's file ({error}); delete the folder") from error
