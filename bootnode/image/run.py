"""The one place that runs other people's programs.

What a program says on stderr goes to the log as it comes; what it says on stdout is returned, and
logged too. It speaks English whatever the locale, and is never given a shell; only one that is run
for a person (`attach`) gets the terminal. Whatever ends the wait (a deadline, Ctrl-C) ends the
program and all it started; if we are killed, the kernel ends the program.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bootnode.errors import ImageError

SHOWN_LINES = 12
"""How much of a failed program's output an error message quotes."""
_TAIL_BYTES = 16 << 10
_ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")

_PACKAGES = {
    "apt-cache": "apt",
    "apt-config": "apt",
    "apt-get": "apt",
    "depmod": "kmod",
    "dnf": "dnf",
    "dpkg-deb": "dpkg",
    "mkfs.erofs": "erofs-utils",
    "mksquashfs": "squashfs-tools",
    "rpm": "rpm",
    "setpriv": "util-linux",
    "tar": "tar",
    "zstd": "zstd",
}
"""The Debian package of each program we run."""


def run(
    command: Sequence[str],
    *,
    log: IO[bytes],
    timeout_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    name: str | None = None,
) -> str:
    """Run `command` to its end and return its stdout; `env` is added to our own environment.

    `name` is what messages call it, where the command itself would say too much.

    Raises:
        ImageError: it is not installed, fails, or takes longer than `timeout_s`.
    """
    log.write(f"$ {shlex.join(command)}\n".encode())
    log.flush()
    log_begin = log.tell()
    with _start(command, log, cwd, env) as process:
        try:
            stdout, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ImageError(
                f"`{name or shlex.join(command)}` was ended: it took longer than {timeout_s:g} s"
            ) from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    log.seek(0, os.SEEK_END)
    log.write(stdout)
    log.flush()
    if process.returncode:
        tail = _tail(Path(log.name), log_begin)
        raise ImageError(_failure(name or shlex.join(command), process.returncode, tail))
    return stdout.decode(errors="replace")


def _start(
    command: Sequence[str], log: IO[bytes], cwd: Path | None, env: Mapping[str, str] | None
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        _complete(command, env),
        cwd=cwd,
        env=_environment(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
    )


def attach(command: Sequence[str], *, has_input: bool) -> int:
    """Run `command` with our stdout, stderr and, with `has_input`, stdin; return how it ended.

    That is its exit status, or 128 and the number of the signal, as in a shell.

    Raises:
        ImageError: it is not installed.
    """
    stdin = None if has_input else subprocess.DEVNULL
    complete, env = _complete(command, None), _environment(None)
    with _terminal_kept(), subprocess.Popen(complete, stdin=stdin, env=env) as process:
        try:
            status = process.wait()
        finally:
            process.kill()
    return status if status >= 0 else 128 - status


@contextmanager
def _terminal_kept() -> Iterator[None]:
    """Give the terminal back to us as it was: a shell that is killed leaves it to itself."""
    if not sys.stdin.isatty():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        yield
    finally:
        # Whoever is not in the foreground is stopped for changing the terminal.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        os.tcsetpgrp(terminal, os.getpgrp())
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _complete(command: Sequence[str], env: Mapping[str, str] | None) -> list[str]:
    """The command as one that the kernel ends when we are killed."""
    program = command[0]
    if shutil.which(program, path=_environment(env)["PATH"]) is None:
        package = _PACKAGES.get(program)
        remedy = f": install the Debian package {package}" if package else ""
        raise ImageError(f"the program {program} is missing{remedy}")
    return [*_ENDS_WITH_US, *command]


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    # Debian keeps depmod in /sbin, which is not on an ordinary user's PATH.
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8", **(extra or {})}


def _tail(log: Path, begin: int) -> list[str]:
    with log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(begin, end - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return [line for line in lines if line.strip()][-SHOWN_LINES:]


def _failure(name: str, status: int, tail: Sequence[str]) -> str:
    how = f"exit status {status}" if status > 0 else f"signal {signal.Signals(-status).name}"
    said = "".join(f"\n    {line}" for line in tail) or " and said nothing"
    return f"`{name}` failed with {how}{':' if tail else ''}{said}"
