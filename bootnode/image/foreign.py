"""Packages of another architecture than this machine's, by an apt of their own.

The machine's own apt is not touched, and no architecture is added to it: ours has a configuration,
lists and a cache in a folder of ours, and shares with it sources, keys, proxies and preferences.

Rules: the lists are as new as the machine's own: they are fetched when there are none, and when
`apt-get update` was run, or the sources changed, since they were.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from bootnode.errors import ImageError
from bootnode.image.run import run

LOOKUP_TIMEOUT_S = 60.0
UPDATE_TIMEOUT_S = 600.0
CONFIGURATION_FILE = "apt.conf"
_UPDATED = "updated"
"""A file that is as old as the lists."""
_PLACES = (
    *("LISTS", "Dir::State::lists/d"),
    *("SOURCES", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d"),
)
"""Where apt keeps what it knows, as apt-config is asked: a name of ours and its own, by turns."""
# Hooks are for the machine's own lists; they clean its cache, or tell the desktop.
_CONFIGURATION = """\
#clear APT::Architectures;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
"""


def own_architecture(log: IO[bytes]) -> str:
    """This machine's, as Debian calls it: `amd64`.

    Raises:
        ImageError: there is no apt.
    """
    command = ["apt-config", "shell", "ARCHITECTURE", "APT::Architecture"]
    said = run(command, log=log, timeout_s=LOOKUP_TIMEOUT_S)
    return shlex.split(said.partition("=")[2])[0]


def apt_options(architecture: str, folder: Path, *, log: IO[bytes]) -> tuple[str, ...]:
    """What makes apt's commands speak of `architecture`, with fresh lists in `folder`.

    Nothing for this machine's own architecture, whose lists are the machine's business.

    Raises:
        ImageError: the lists cannot be fetched, or there is no apt.
    """
    if architecture == own_architecture(log):
        return ()
    for part in ("state/lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    configuration = folder / CONFIGURATION_FILE
    configuration.write_text(_CONFIGURATION.format(architecture=architecture, folder=folder))
    options = ("-c", str(configuration))
    if _is_outdated(folder / _UPDATED, log):
        _update(architecture, options, log)
        (folder / _UPDATED).touch()
    return options


def known_files(options: Sequence[str], log: IO[bytes]) -> list[Path]:
    """The lists and sources of the apt with these options, and the folders that they are in."""
    said = run(["apt-config", *options, "shell", *_PLACES], log=log, timeout_s=LOOKUP_TIMEOUT_S)
    places = [Path(word.partition("=")[2]) for word in shlex.split(said)]
    files = [file for place in places for file in (place, *sorted(place.glob("*")))]
    return [file for file in files if file.exists()]


def _is_outdated(updated: Path, log: IO[bytes]) -> bool:
    if not updated.exists():
        return True
    newest = max((file.stat().st_mtime_ns for file in known_files((), log)), default=0)
    return newest > updated.stat().st_mtime_ns


def _update(architecture: str, options: Sequence[str], log: IO[bytes]) -> None:
    try:
        run(["apt-get", *options, "update"], log=log, timeout_s=UPDATE_TIMEOUT_S)
    except ImageError as error:
        raise ImageError(
            f"the package lists for {architecture} cannot be fetched: {error}"
        ) from error
