"""Debian in a folder, by mmdebstrap.

Limits: an hour; only root can do it.
"""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from bootnode.errors import ImageError
from bootnode.image.rootfs import INSTALL_TIME, NAMESPACE, Installed, forget_machine
from bootnode.image.run import run
from bootnode.image.spec import System

BOOTSTRAP_TIMEOUT_S = 3600.0
# Before anything is installed, so that a wrong name is said at once. mmdebstrap sees that the lists
# of packages are there and does not fetch them again.
_CHECK = (
    'export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"; apt-get update --error-on=any >&2 && '
    'apt-get install --simulate $(echo "$MMDEBSTRAP_INCLUDE" | tr , " ") >/dev/null'
)
_UNKNOWN_PACKAGE = re.compile(r"E: Unable to locate package (\S+)")
_NO_RELEASE = re.compile(r"E: The repository '.*' does not have a Release file")
_NOT_FETCHED = re.compile(r"Err:\d+ (?P<url>\S+) .*\n\s+(?P<reason>.*\S)")
_NOT_FOUND = "404 "
_UNREACHABLE = re.compile(r"E: (?:Failed|Unable) to fetch (?P<url>\S+)\s+(?P<reason>.*\S)")


def bootstrap(system: System, packages: tuple[str, ...], root: Path, *, log: IO[bytes]) -> None:
    """Install the distribution and `packages` into the folder `root`.

    Raises:
        ImageError: mmdebstrap fails, and what it said.
    """
    command = [
        *NAMESPACE,
        *("mmdebstrap", "--mode=root", "--variant=apt", "--format=directory"),
        f"--setup-hook={_CHECK}",
        f"--include={','.join(packages)}",
        # The network may be gone for a moment; a mirror that stalls must not stall us for ever.
        *("--aptopt=Acquire::Retries 3", "--aptopt=Acquire::http::Timeout 30"),
        *(system.release, str(root)),
    ]
    if system.mirror is not None:
        command.append(system.mirror)
    # Our own ramdisk is made in a later step; one of initramfs-tools would be thrown away.
    environment = {"INITRD": "No", "DEBIAN_FRONTEND": "noninteractive"}
    environment["SOURCE_DATE_EPOCH"] = INSTALL_TIME
    # Beside the root and not in /tmp, where nobody would remove what a killed mmdebstrap leaves.
    with TemporaryDirectory(dir=root.parent, prefix="mmdebstrap-") as temporary:
        environment["TMPDIR"] = temporary
        try:
            run(command, log=log, timeout_s=BOOTSTRAP_TIMEOUT_S, env=environment, name="mmdebstrap")
        except ImageError as error:
            raise _explained(error, system.release) or error from error
    forget_machine(root)


def _explained(error: ImageError, release: str) -> ImageError | None:
    """What apt's words mean for who wrote the recipe; None if we do not know better."""
    said = str(error)
    unknown = dict.fromkeys(_UNKNOWN_PACKAGE.findall(said))
    if unknown:
        return ImageError(f"{release} has no package {', '.join(unknown)}: correct the recipe")
    if "No space left on device" in said:
        return ImageError(f"no space left on device while installing {release}")
    # One reason for each of a dozen files; the first will do.
    unreachable = _UNREACHABLE.search(said)
    # Without the file that lists all others apt says only that, not why.
    if unreachable is None and _NO_RELEASE.search(said):
        unreachable = _NOT_FETCHED.search(said)
        if unreachable is None or unreachable["reason"].startswith(_NOT_FOUND):
            return ImageError(
                f"the mirror has no release '{release}': "
                "correct `release` or `mirror` in the recipe"
            )
    if unreachable:
        return ImageError(
            f"cannot fetch {unreachable['url']}: {unreachable['reason']} "
            "(check this machine's network, or set `mirror` in the recipe)"
        )
    return None


def installed(root: Path, _log: IO[bytes], /) -> Installed:
    """What is installed in `root`."""
    status = root / "var/lib/dpkg/status"
    records = status.read_text(encoding="utf-8").split("\n\n") if status.exists() else []
    packages: dict[str, str] = {}
    for record in records:
        fields = dict(line.split(": ", 1) for line in record.splitlines() if ": " in line)
        if fields.get("Status", "").endswith(" installed"):
            packages[fields["Package"]] = fields["Version"]
    # dpkg keeps the times of what comes in a package, and these files always do.
    sums = (root / "var/lib/dpkg/info").glob("*.md5sums")
    newest = max((int(file.stat().st_mtime) for file in sums), default=0)
    return Installed(packages=packages, newest=newest)
