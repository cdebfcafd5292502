"""A virtual lab: a server's network and nodes on one machine, out of everything else's way.

`Lab.up` starts a supervisor (supervisor.py) in fresh namespaces; all else goes through its control
socket, so that any process can attach to a lab by its folder. Calls block and have deadlines.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Interface
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from bootnode.errors import LabError
from bootnode.lab import control
from bootnode.lab.acceleration import choose_accel
from bootnode.lab.config import LabConfig
from bootnode.lab.console import attach_terminal
from bootnode.lab.control import ProcessStatus
from bootnode.lab.host import Host
from bootnode.lab.process import LabProcess, tail
from bootnode.lab.qemu import NodeVm, VmFiles, prepare_files, qemu_command
from bootnode.lab.requirements import require, require_network
from bootnode.lab.vm import RunningVm

UP_TIMEOUT_S = 20.0
# The supervisor gives its processes 3 s; then it is killed, and the kernel needs a moment.
DOWN_TIMEOUT_S = 6.0
DAEMON_TIMEOUT_S = 20.0
HOST_TIMEOUT_S = 5.0
_POLL_S = 0.02


class Lab:
    """A running lab."""

    def __init__(self, config: LabConfig, launcher: subprocess.Popen[bytes] | None = None) -> None:
        """Use `up` or `attach`.

        Raises:
            LabError: no supervisor answers in the folder.
        """
        self.config = config
        self._launcher = launcher
        try:
            with control.connect(config.control_socket, timeout_s=control.REPLY_TIMEOUT_S) as peer:
                self._supervisor_pid = control.peer_pid(peer)
                self._pidfd = os.pidfd_open(self._supervisor_pid)
        except OSError as error:
            raise LabError(
                f"{config.folder}: the lab is down ({error}); start it with `bootnode lab up`"
            ) from error
        self._close_pidfd = weakref.finalize(self, os.close, self._pidfd)

    @classmethod
    def up(cls, config: LabConfig, *, detach: bool = False) -> Self:
        """Start a lab; it ends with this process, whatever becomes of it, unless `detach`.

        Raises:
            LabError: something it needs is missing, or a lab runs there already, or it does not
                come up; then nothing of it is left but its logs.
        """
        require_network()
        if _answers(config):
            raise LabError(f"{config.folder}: a lab runs here already; see `bootnode lab down`")
        for part in (config.run, config.folder / "logs", config.folder / "consoles"):
            shutil.rmtree(part, ignore_errors=True)
        config.control_socket.unlink(missing_ok=True)
        config.save()
        launcher = _launch(config, detach=detach)
        try:
            return cls._wait_until_up(config, launcher)
        except BaseException:
            _end_launcher(launcher)
            raise

    @classmethod
    def _wait_until_up(cls, config: LabConfig, launcher: subprocess.Popen[bytes]) -> Self:
        deadline = time.monotonic() + UP_TIMEOUT_S
        while time.monotonic() < deadline:
            if launcher.poll() is not None:
                break
            if _answers(config):
                return cls(config, launcher)
            time.sleep(_POLL_S)
        raise LabError(f"the lab does not come up:\n{tail(config.log('supervisor'))}")

    @classmethod
    def attach(cls, folder: Path) -> Self:
        """The lab that runs in `folder`.

        Raises:
            LabError: none does.
        """
        return cls(LabConfig.load(folder.absolute()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.down()

    # Processes

    def spawn(
        self, command: Sequence[str | Path], *, name: str, env: Mapping[str, str] | None = None
    ) -> LabProcess:
        """Start a process inside the lab, under its supervisor; output goes to logs/NAME.log.

        `env` is added to this process's environment; the working folder is this process's.

        Raises:
            LabError: the name is taken by one that runs, or the program cannot be started.
        """
        return self._spawn(command, name=name, env=env, cwd=Path.cwd())

    def _spawn(
        self,
        command: Sequence[str | Path],
        *,
        name: str,
        env: Mapping[str, str] | None = None,
        cwd: Path,
    ) -> LabProcess:
        if "/" in name or not name:
            raise LabError(f"'{name}' cannot name a process: it names its log file too")
        request = {
            "do": "spawn",
            "name": name,
            "command": [str(word) for word in command],
            "env": {**os.environ, **(env or {})},
            "cwd": str(cwd),
        }
        reply = control.call(self.config.control_socket, request)
        return LabProcess(config=self.config, status=ProcessStatus.from_json(reply))

    def start_daemon(
        self,
        command: Sequence[str | Path],
        ready_line: str = "bootnoded: ready",
        *,
        name: str = "bootnoded",
    ) -> LabProcess:
        """Start a server and wait for the line by which it says that it serves.

        Raises:
            LabError: it ended, or was silent for DAEMON_TIMEOUT_S; it is stopped then.
        """
        daemon = self.spawn(command, name=name)
        try:
            daemon.wait_log(ready_line, timeout_s=DAEMON_TIMEOUT_S)
        except LabError:
            daemon.send_signal(signal.SIGKILL)
            raise
        return daemon

    def command(self, command: Sequence[str | Path]) -> list[str]:
        """The command line that runs `command` inside the lab, in this process's folder."""
        return [
            *("nsenter", f"--target={self._supervisor_pid}", "--net", "--pid", "--mount", "--"),
            *("env", f"--chdir={Path.cwd()}", "--"),
            *(str(word) for word in command),
        ]

    def run(
        self, command: Sequence[str | Path], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Run something inside the lab, wait for it, and return its output as text.

        Raises:
            LabError: it takes longer than `timeout_s`; it is killed then.
        """
        return _run(self.command(command), timeout_s)

    def processes(self) -> tuple[LabProcess, ...]:
        """Every process that was started under the supervisor, in the order of their names."""
        reply = control.call(self.config.control_socket, {"do": "list"})
        statuses = [ProcessStatus.from_json(fields) for fields in reply["processes"]]
        return tuple(
            LabProcess(config=self.config, status=status)
            for status in sorted(statuses, key=lambda status: status.name)
        )

    # Machines

    def add_host(
        self, name: str, *, tap: str | None = None, address: IPv4Interface | None = None
    ) -> Host:
        """Another machine on the switch of `tap`: a network stack of its own, its NIC eth0.

        Raises:
            LabError: there is no such tap, or the host does not come up.
        """
        plug = self._spawn(
            [
                *("unshare", "--net", "--mount", "sh", "-c"),
                'mount -t sysfs sysfs /sys; exec vde_plug2tap -s "$0" eth0',
                self.config.switch_socket(tap),
            ],
            name=f"host-{name}",
            cwd=self.config.folder,
        )
        host = Host(lab=self, name=name, plug=plug)
        host.configure(address, timeout_s=HOST_TIMEOUT_S)
        return host

    def boot(self, vm: NodeVm) -> RunningVm:
        """Switch a node on.

        Raises:
            LabError: qemu or its firmware is missing, the node is on, or qemu does not start.
        """
        if any(p.name == vm.name and p.status.exit_status is None for p in self.processes()):
            raise LabError(f"'{vm.name}' runs already in this lab; power it off first")
        require(vm.requirements)
        accel = "tcg" if vm.is_arm64 else choose_accel(self.config)
        files = VmFiles.of(vm, self.config)
        prepare_files(vm, files)
        command = qemu_command(vm, accel=accel, files=files)
        running = RunningVm(process=self._spawn(command, name=vm.name, cwd=self.config.folder))
        running.wait_powered_on()
        return running

    def vm(self, name: str) -> RunningVm:
        """The node `name`, if it was booted in this lab.

        Raises:
            LabError: it was not.
        """
        for process in self.processes():
            if process.name == name and process.status.command[0].startswith("qemu-system-"):
                return RunningVm(process=process)
        raise LabError(f"'{name}' is no node of this lab; boot it with `bootnode lab boot`")

    def console(self, name: str) -> None:
        """Connect this terminal with a node's console until Ctrl-] is typed.

        Raises:
            LabError: there is no such node, or it is off.
        """
        self.vm(name)
        attach_terminal(self.config.console_socket(name), self.config.console(name))

    # The end

    @property
    def is_up(self) -> bool:
        """Whether the lab's supervisor lives."""
        return self._close_pidfd.alive and not _has_ended(self._pidfd, timeout_s=0)

    def down(self) -> None:
        """End the lab and everything in it; harmless on one that is down.

        Raises:
            LabError: the kernel does not let go of its processes.
        """
        if self._close_pidfd.alive:
            self._stop_supervisor()
            self._close_pidfd()
        if self._launcher is not None:
            _end_launcher(self._launcher)
        shutil.rmtree(self.config.run, ignore_errors=True)
        self.config.control_socket.unlink(missing_ok=True)

    def _stop_supervisor(self) -> None:
        """A pidfd reports process 1's end after the kernel has reaped all of its namespace."""
        try:
            control.call(self.config.control_socket, {"do": "stop"})
        except LabError:
            _kill(self._pidfd)  # it is gone already, or it hangs
        if _has_ended(self._pidfd, timeout_s=DOWN_TIMEOUT_S):
            return
        _kill(self._pidfd)
        if not _has_ended(self._pidfd, timeout_s=DOWN_TIMEOUT_S):
            raise LabError(
                f"{self.config.folder}: process {self._supervisor_pid} does not end when killed;"
                " look at the kernel's log"
            )


def _launch(config: LabConfig, *, detach: bool) -> subprocess.Popen[bytes]:
    life: Literal["bound", "detached"] = "detached" if detach else "bound"
    with config.log("supervisor").open("wb") as output:
        return subprocess.Popen(
            [
                *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *(sys.executable, "-P", "-m", "bootnode.lab.supervisor", str(config.folder), life),
            ],
            stdin=subprocess.DEVNULL if detach else subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _end_launcher(launcher: subprocess.Popen[bytes]) -> None:
    """Kill `unshare`, and with it the supervisor, if they still live."""
    if launcher.stdin is not None:
        launcher.stdin.close()
    launcher.kill()
    launcher.wait(DOWN_TIMEOUT_S)


def _answers(config: LabConfig) -> bool:
    try:
        control.connect(config.control_socket, timeout_s=control.REPLY_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _has_ended(pidfd: int, *, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _kill(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has ended, which is all we want


def _run(command: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    # A process group of its own: nsenter runs the command as its child, and both must go.
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
            raise LabError(
                f"{' '.join(command)}: still running after {timeout_s:g} s\n{output}{errors}"
            ) from None
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
