"""A shell in the root file system of an image: what changes there is kept for the next builds.

The root file system is the one that the step `customise` made, under an overlay that takes what is
written. Mounts and processes are in namespaces that end with us, whatever ends us; the network is
this machine's. Prompt, commands typed, and a script given come and go by a folder of ours, which is
/run/bootnode inside.

Rules: a shell at a terminal keeps what was done however its last command ended; a script or a
command keeps it only if it succeeds. A script ends at its first command that fails.

Limits: the state folder has to be on a file system that can carry an overlay.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bootnode.errors import ImageError
from bootnode.image.build import OpenRoot
from bootnode.image.changes import Change, Changes
from bootnode.image.difference import Difference, compare
from bootnode.image.rootfs import ENVIRONMENT, NAMESPACE, PREPARE
from bootnode.image.run import attach

MAX_COMMANDS = 1000
"""How many of the commands typed are recorded, the last ones."""
_SESSION = "/run/bootnode"
_HISTORY, _SCRIPT, _READY, _SETTINGS = "history", "script", "ready", "settings"
# $1 is the folder with the parts of the overlay, $2 the image; then what to run. A change of one
# name of several a file has is a change of that name, and so is moving a folder: what the overlay
# knows beyond that would be lost in a tar. Its upper folder is ours alone and gone after a crash.
_ENTER = f"""\
set -eu
cd "$1"
name=$2
shift 2
options=redirect_dir=off,metacopy=off,index=off,xino=off,volatile
mount -t overlay -o "lowerdir=lower:kernels,upperdir=upper,workdir=work,$options" overlay root
set -- root "$@"
{PREPARE}
echo "$name" >proc/sys/kernel/hostname
if [ -d /dev/pts ]; then
    mkdir dev/pts
    mount --bind /dev/pts dev/pts
    ln -s pts/ptmx dev/ptmx
fi
mkdir run/bootnode
mount --bind ../session run/bootnode
: >run/bootnode/{_READY}
shift
exec chroot . "$@"
"""
_BASH_SETTINGS = """\
for file in /etc/bash.bashrc /etc/bashrc ~/.bashrc; do [ ! -r "$file" ] || . "$file"; done
HISTFILE={session}/{history} HISTSIZE={count} HISTFILESIZE={count} PROMPT_COMMAND='history -a'
PS1='({name}) \\w\\$ '
"""
_SH_SETTINGS = "PS1='({name}) $PWD # '\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What to run: a command, a script, or, without both, a shell for who sits at the terminal."""

    command: tuple[str, ...] = ()
    script: bytes | None = None

    @property
    def is_interactive(self) -> bool:
        """Whether a person types."""
        return not self.command and self.script is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What came of it."""

    difference: Difference
    kept: Change | None
    """None if nothing changed or nothing was to be kept."""


def open_shell(name: str, opened: OpenRoot, task: Task, changes: Changes | None) -> Visit:
    """Run `task` in the root file system of image `name`; keep what it changed in `changes`.

    Raises:
        ImageError: it cannot be started, or a command or script fails; nothing is kept then.
    """
    scratch = opened.scratch
    _lay_out(name, opened, task)
    words = _words(opened.tree / "root", task)
    settings = (
        *(f"TERM={os.environ.get('TERM', 'dumb')}", f"ENV={_SESSION}/{_SETTINGS}"),
        "HOME=/root",
    )
    enter = ("sh", "-c", _ENTER, "shell", str(scratch), name, *words)
    opened.log.write(f"== shell: {shlex.join(words)}\n".encode())
    status = attach([*NAMESPACE, *ENVIRONMENT, *settings, *enter], has_input=task.script is None)
    _check(status, opened, task)
    difference = compare(scratch / "upper", [scratch / "lower", scratch / "kernels"])
    kept = None
    if changes is not None and difference:
        kept = changes.keep(
            name,
            difference,
            scratch / "upper",
            by=who(),
            commands=_commands(scratch / "session", task),
            log=opened.log,
        )
    return Visit(difference=difference, kept=kept)


def _lay_out(name: str, opened: OpenRoot, task: Task) -> None:
    """Make the folders that _ENTER mounts, and what is in /run/bootnode."""
    scratch = opened.scratch
    for folder in ("root", "upper", "work", "session"):
        (scratch / folder).mkdir()
    # By these names, because the options of a mount give a meaning to commas and colons.
    (scratch / "lower").symlink_to(opened.tree / "root")
    (scratch / "kernels").symlink_to(opened.tree / "kernels")
    # The root of an overlay is its upper folder.
    shutil.copystat(scratch / "lower", scratch / "upper")
    owner = (scratch / "lower").stat()
    os.chown(scratch / "upper", owner.st_uid, owner.st_gid)
    session = scratch / "session"
    has_bash = _has_bash(scratch / "lower")
    settings = (_BASH_SETTINGS if has_bash else _SH_SETTINGS).format(
        session=_SESSION, history=_HISTORY, count=MAX_COMMANDS, name=name
    )
    (session / _SETTINGS).write_text(settings)
    if task.script is not None:
        (session / _SCRIPT).write_bytes(task.script)


def _words(root: Path, task: Task) -> Sequence[str]:
    if task.command:
        return task.command
    shell = "/bin/bash" if _has_bash(root) else "/bin/sh"
    if task.script is not None:
        return (shell, "-e", f"{_SESSION}/{_SCRIPT}")
    if _has_bash(root):
        return (shell, "--rcfile", f"{_SESSION}/{_SETTINGS}", "-i")
    return (shell, "-i")


def _has_bash(root: Path) -> bool:
    return os.path.lexists(root / "usr/bin/bash") or os.path.lexists(root / "bin/bash")


def _check(status: int, opened: OpenRoot, task: Task) -> None:
    if not (opened.scratch / "session" / _READY).exists():
        raise ImageError(
            f"the root file system cannot be mounted (see above): {opened.scratch.parent} has to "
            "be on a local file system such as ext4, xfs or btrfs; `--state-dir` names another"
        )
    what = shlex.join(task.command) or "the script"
    if status and not task.is_interactive:
        raise ImageError(f"`{what}` failed with exit status {status}: nothing is kept")


def _commands(session: Path, task: Task) -> list[str]:
    if task.command:
        return [shlex.join(task.command)]
    source = session / (_HISTORY if task.script is None else _SCRIPT)
    if not source.exists():
        return []
    lines = source.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in lines if line.strip()][-MAX_COMMANDS:]


def who() -> str:
    """The name of the person: sudo says who became root."""
    if name := os.environ.get("SUDO_USER"):
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
