"""Process 1 of a lab: `python -m bootnode.lab.supervisor FOLDER bound|detached`.

It runs as the first process of fresh network, process and mount namespaces, makes the network
(switches, taps, addresses), and starts and reaps everything else there. When it ends, for whatever
reason, the kernel kills all of the process namespace, and the taps go with the network namespace:
nothing has to be cleaned up, so nothing can be forgotten, not even after `kill -9`.

It listens on its control socket only once the network stands, so a connection is the ready sign.
One thread, one request at a time; each is answered at once:

    {do: spawn, name, command, env, cwd}  start a process, its output to logs/NAME.log
    {do: status, name}                    a process, with its exit status if it has ended
    {do: list}                            all processes
    {do: signal, name, signal}            send it a signal
    {do: stop}                            end the lab

A `bound` lab also ends when its stdin does: that is a pipe from the process that started it, which
closes even if that process is killed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any, NoReturn

from bootnode.errors import LabError
from bootnode.lab import control
from bootnode.lab.config import LabConfig
from bootnode.lab.control import ProcessStatus

# 64 nodes with their servers and clients; a list of them fits in one message.
PROCESSES_MAX = 256
SWITCH_PORTS = 128
NETWORK_TIMEOUT_S = 10.0
# bootnoded ends within 2 s of SIGTERM; what is still there afterwards the kernel kills.
STOP_GRACE_S = 3.0
CLIENT_TIMEOUT_S = 2.0
_POLL_S = 0.02

log = logging.getLogger("lab")


@dataclass(slots=True, kw_only=True)
class Child:
    """A process started here, and its Popen, which also holds the pipe to its stdin."""

    status: ProcessStatus
    process: subprocess.Popen[bytes]


class Supervisor:
    """The processes of one lab."""

    def __init__(self, config: LabConfig, *, bound: bool) -> None:
        self._config = config
        self._bound = bound
        self._children: dict[str, Child] = {}
        self._vital: set[str] = set()
        """Without these there is no network, and so no lab."""
        self._stopping = False

    def serve(self) -> None:
        """Make the network, then answer requests until told to stop.

        Raises:
            LabError: the network cannot be made, or a switch ended.
        """
        wakeup = _wake_on_signals()
        self._make_network()
        with _listen(self._config.control_socket) as listener, selectors.DefaultSelector() as ready:
            ready.register(wakeup, selectors.EVENT_READ, self._take_signals)
            ready.register(listener, selectors.EVENT_READ, self._take_request)
            if self._bound:
                ready.register(sys.stdin.buffer, selectors.EVENT_READ, self._take_end_of_owner)
            log.info("ready")
            while not self._stopping:
                for key, _ in ready.select():
                    key.data(key.fileobj)
        self._end_children()

    # The network

    def _make_network(self) -> None:
        _try_write(Path("/proc/sys/net/ipv6/conf/default/accept_dad"), "0")
        _try_command("mount", "-t", "sysfs", "sysfs", "/sys")
        _command("ip", "link", "set", "lo", "up")
        for tap, address in self._config.taps:
            self._make_switch(tap, address)

    def _make_switch(self, tap: str, address: IPv4Interface) -> None:
        folder = self._config.switch_socket(tap)
        switch = f"switch-{tap}"
        # In the foreground vde_switch ends with its stdin, so it gets a pipe that stays open.
        self._spawn_vital(switch, ["vde_switch", "-n", str(SWITCH_PORTS), "-s", str(folder)])
        self._wait_for(switch, lambda: _is_socket(folder / "ctl"))
        plug = f"plug-{tap}"
        self._spawn_vital(plug, ["vde_plug2tap", "-s", str(folder), tap])
        self._wait_for(plug, lambda: tap in {name for _, name in socket.if_nameindex()})
        _command("ip", "addr", "add", str(address), "broadcast", "+", "dev", tap)
        _command("ip", "link", "set", tap, "up")

    def _spawn_vital(self, name: str, command: Sequence[str]) -> None:
        self._vital.add(name)
        self._spawn(name, command, env=os.environ, cwd=self._config.folder)

    def _wait_for(self, name: str, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + NETWORK_TIMEOUT_S
        while not is_ready():
            self._reap()
            if time.monotonic() > deadline:
                raise LabError(f"{name} is not ready after {NETWORK_TIMEOUT_S:g} s")
            time.sleep(_POLL_S)

    # Children

    def _spawn(
        self, name: str, command: Sequence[str], *, env: Mapping[str, str], cwd: Path
    ) -> ProcessStatus:
        known = self._children.get(name)
        if known is not None and known.status.exit_status is None:
            raise LabError(f"'{name}' runs already in this lab; end it or choose another name")
        if known is None and len(self._children) >= PROCESSES_MAX:
            raise LabError(f"{PROCESSES_MAX} processes in this lab so far; start a new lab")
        with self._config.log(name).open("ab") as output:
            log_offset = output.tell()
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE if name in self._vital else subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=env,
                    cwd=cwd,
                    start_new_session=True,
                )
            except OSError as error:
                raise LabError(f"{name}: cannot start {command[0]}: {error}") from error
        status = ProcessStatus(
            name=name,
            pid=process.pid,
            command=tuple(command),
            started=time.monotonic(),
            log_offset=log_offset,
            exit_status=None,
        )
        self._children[name] = Child(status=status, process=process)
        log.info("start name=%s pid=%d command=%s", name, process.pid, command)
        return status

    def _reap(self) -> None:
        """Collect whoever has ended: our children, and orphans, which process 1 inherits."""
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._note_end(pid, os.waitstatus_to_exitcode(wait_status))

    def _note_end(self, pid: int, exit_status: int) -> None:
        for name, child in self._children.items():
            if child.status.pid == pid and child.status.exit_status is None:
                child.status = _ended(child.status, exit_status)
                child.process.returncode = exit_status  # Popen must not wait for it again
                log.info("end name=%s pid=%d status=%d", name, pid, exit_status)
                if name in self._vital and not self._stopping:
                    raise LabError(f"{name} ended with status {exit_status}; see its log")

    def _end_children(self) -> None:
        deadline = time.monotonic() + STOP_GRACE_S
        workers = [c for name, c in self._children.items() if name not in self._vital]
        for child in workers:
            if child.status.exit_status is None:
                os.kill(child.status.pid, signal.SIGTERM)
        while any(c.status.exit_status is None for c in workers) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            self._reap()

    # What wakes the loop

    def _take_signals(self, wakeup: socket.socket) -> None:
        if set(wakeup.recv(4096)) & {signal.SIGTERM, signal.SIGINT}:
            self._stopping = True
        self._reap()

    def _take_end_of_owner(self, stdin: Any) -> None:
        if not os.read(stdin.fileno(), 4096):
            log.info("the process that started this lab is gone")
            self._stopping = True

    def _take_request(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(CLIENT_TIMEOUT_S)
            try:
                request = control.receive(connection)
                if request is None:
                    return  # only looked whether the lab is up
                reply = self._answer(request)
            except (LabError, KeyError, TypeError, ValueError, OSError) as error:
                log.warning("refused: %r", error)
                reply = {"error": str(error) if isinstance(error, LabError) else repr(error)}
            # A caller that went away does not need its answer.
            with contextlib.suppress(OSError):
                control.send(connection, reply)

    def _answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "spawn":
                env, cwd = request["env"], Path(request["cwd"])
                return self._spawn(request["name"], request["command"], env=env, cwd=cwd).to_json()
            case "status":
                return self._child(request["name"]).status.to_json()
            case "list":
                return {"processes": [c.status.to_json() for c in self._children.values()]}
            case "signal":
                self._signal(request["name"], request["signal"])
                return {}
            case "stop":
                self._stopping = True
                return {}
            case other:
                raise LabError(f"'{other}' is no request (want spawn, status, list, signal, stop)")

    def _child(self, name: str) -> Child:
        if name not in self._children:
            raise LabError(f"'{name}' is no process of this lab")
        return self._children[name]

    def _signal(self, name: str, number: int) -> None:
        child = self._child(name)
        if child.status.exit_status is None:
            os.kill(child.status.pid, number)


def _ended(status: ProcessStatus, exit_status: int) -> ProcessStatus:
    return ProcessStatus.from_json({**status.to_json(), "exit_status": exit_status})


def _wake_on_signals() -> socket.socket:
    """A socket that becomes readable, with the signals' numbers, when one arrives."""
    reader, writer = socket.socketpair()
    for end in (reader, writer):
        end.setblocking(False)
    signal.set_wakeup_fd(writer.detach())
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return reader


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    listener.listen(64)
    return listener


def _is_socket(path: Path) -> bool:
    return path.exists() and path.is_socket()


def _command(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=NETWORK_TIMEOUT_S)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip()}")


def _try_command(*command: str) -> None:
    """Do what makes the lab nicer but is not allowed in every container."""
    try:
        _command(*command)
    except LabError as error:
        log.warning("%s", error)


def _try_write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        log.warning("%s: %s", path, error)


def main() -> NoReturn:
    """Run the supervisor in the folder named on the command line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    folder, life = Path(sys.argv[1]), sys.argv[2]
    if os.getpid() != 1:
        sys.exit("the supervisor must be process 1 of a process namespace; see `bootnode lab up`")
    try:
        Supervisor(LabConfig.load(folder), bound=life == "bound").serve()
    except (LabError, OSError, subprocess.SubprocessError) as error:
        log.error("%s", error)
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
