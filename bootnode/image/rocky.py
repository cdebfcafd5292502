"""Rocky in a folder, by dnf.

dnf is Debian's: it reads a configuration and repositories of our making, none of this machine's.
Its rpm keeps the database of packages as SQLite, which Rocky 8's own rpm reads but does not write,
so that one converts it afterwards.

Rules: packages are checked against the key of their repository. What the kernel's package would do
for a disk is not done: no ramdisk by dracut, which we throw away, and no entry for a boot loader.

Limits: an hour; only root can do it.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from bootnode.errors import ImageError
from bootnode.image.kernel import depmod
from bootnode.image.rootfs import (
    INSTALL_TIME,
    MOUNTS,
    NAMESPACE,
    Installed,
    forget_machine,
    inside,
)
from bootnode.image.run import run
from bootnode.image.spec import Repository, System

INSTALL_TIMEOUT_S = 3600.0
DATABASE_TIMEOUT_S = 300.0
DATABASE = "var/lib/rpm"
# Read by rpm from $HOME, where Debian's would keep its database, too. The folders below which
# something is mounted are not for a package to change.
_RPM_MACROS = f"%_dbpath /{DATABASE}\n%_netsharedpath /dev:/proc:/sys\n"
# dnf runs in the root. Its lists are split at blanks, so they are no place for a path of ours.
_DNF_CONFIG = """\
[main]
reposdir=../{scratch}/repos
varsdir=../{scratch}/vars
plugins=False
install_weak_deps=False
best=True
module_platform_id=platform:el{major}
retries=3
timeout=30
"""
_REPOSITORY = """\
[{name}]
name={name}
baseurl={url}
gpgcheck={is_checked:d}
gpgkey={key}
"""
# What it says in its order, with its reasons last.
_INSTALL = MOUNTS + 'shift\nexec dnf "$@" >&2\n'
_CONVERT = (
    MOUNTS
    + """\
chroot . rpm --rebuilddb >&2
if [ -e var/lib/rpm/Packages ]; then
    rm -f var/lib/rpm/rpmdb.sqlite*
fi
exec chroot . rpm --query --all --queryformat "$2"
"""
)
_IDENTITY = "%{NAME} %{VERSION} %{RELEASE}\\n"
_FOLDERS = {"dev": 0o755, "proc": 0o555, "run": 0o755, "sys": 0o555, "tmp": 0o1777}
"""What something is mounted on before the package that brings these folders is there."""
_PLUGINS = "etc/kernel/install.d"
_UNWANTED_PLUGINS = ("50-dracut.install", "51-dracut-rescue.install")
"""What kernel-install would run; one that is a link to /dev/null is not."""
_LEFTOVERS = (
    *("boot/loader", "var/cache/dnf", "var/lib/dnf/history.sqlite*"),
    *("var/log/dnf*.log", "var/log/hawkey.log", f"{DATABASE}/__db.*", f"{DATABASE}/*-shm"),
)
"""Who built it where and when: entries for boot loaders, logs, memory of dnf and databases."""
_NOT_A_PACKAGE = "gpg-pubkey"
"""What rpm's database calls the keys of repositories, which it lists among the packages."""

_UNKNOWN_PACKAGE = re.compile(r"No match for argument: (\S+)")
_MISSING_NEED = re.compile(r"nothing provides (?P<need>.+?) needed by (?P<package>\S+)")
_UNSIGNED = re.compile(r"Package (\S+)\.rpm is not signed")
_WRONG_KEY = re.compile(r"Public key for (\S+)\.rpm is not installed")
_BAD_REPOSITORY = re.compile(r"Failed to download metadata for repo '(\S+)'")
_CURL = re.compile(r"Curl error \(\d+\): (?P<kind>.*?) for (?P<url>\S+)(?: \[(?P<detail>.*)\])?")
_NO_SPACE = re.compile(r"No space left on device|more space needed on|database or disk is full")


def bootstrap(system: System, packages: tuple[str, ...], root: Path, *, log: IO[bytes]) -> None:
    """Install `packages` and all they need into the folder `root`.

    Raises:
        ImageError: dnf fails, and what it said; or rpm in the image cannot read what it wrote.
    """
    root.mkdir()
    for name, mode in _FOLDERS.items():
        (root / name).mkdir()
        (root / name).chmod(mode)
    _mask_plugins(root)
    with TemporaryDirectory(dir=root.parent, prefix="dnf-") as scratch:
        _configure(Path(scratch), system)
        try:
            _install(Path(scratch), system, packages, root, log)
        except ImageError as error:
            raise _explained(error, system) or error from error
    _convert_database(root, log)
    for name in _UNWANTED_PLUGINS:
        (root / _PLUGINS / name).unlink()
    for folder in inside(root, Path("lib/modules")).glob("*/kernel"):
        depmod(root, folder.parent.name, log=log)
    for pattern in _LEFTOVERS:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    forget_machine(root)


def _mask_plugins(root: Path) -> None:
    (root / _PLUGINS).mkdir(parents=True)
    for name in _UNWANTED_PLUGINS:
        (root / _PLUGINS / name).symlink_to("/dev/null")


def _configure(scratch: Path, system: System) -> None:
    """Write what dnf and rpm read instead of this machine's configuration."""
    for name in ("repos", "vars"):
        (scratch / name).mkdir()
    major = system.release.partition(".")[0]
    (scratch / "dnf.conf").write_text(_DNF_CONFIG.format(scratch=scratch.name, major=major))
    (scratch / ".rpmmacros").write_text(_RPM_MACROS)
    for repository in system.repositories:
        text = _REPOSITORY.format(
            name=repository.name,
            url=repository.url,
            is_checked=repository.key is not None,
            key=_key_url(repository),
        )
        (scratch / "repos" / f"{repository.name}.repo").write_text(text)


def _key_url(repository: Repository) -> str:
    key = repository.key
    return key.resolve().as_uri() if isinstance(key, Path) else key or ""


def _install(
    scratch: Path, system: System, packages: tuple[str, ...], root: Path, log: IO[bytes]
) -> None:
    command = [
        *(*NAMESPACE, "sh", "-c", _INSTALL, "dnf", str(root.resolve())),
        *("--assumeyes", f"--config={scratch}/dnf.conf", f"--installroot={root.resolve()}"),
        *(f"--releasever={system.release}", "install", *packages),
    ]
    environment = {"HOME": str(scratch), "SOURCE_DATE_EPOCH": INSTALL_TIME}
    run(command, log=log, timeout_s=INSTALL_TIMEOUT_S, env=environment, name="dnf")


def _convert_database(root: Path, log: IO[bytes]) -> None:
    """Have the root's own rpm, if it has one, write the database in its own form."""
    if not (root / "usr/bin/rpm").exists():
        return
    written = _query(root, _IDENTITY, log)
    command = [*NAMESPACE, "sh", "-c", _CONVERT, "rpm", str(root.resolve()), _IDENTITY]
    said = run(command, log=log, timeout_s=DATABASE_TIMEOUT_S, name="rpm --rebuilddb in the image")
    if sorted(said.splitlines()) != sorted(written.splitlines()):
        raise ImageError(
            "the image's own rpm does not know the packages that dnf installed: "
            "it cannot read the database that this machine's rpm wrote"
        )


def _query(root: Path, form: str, log: IO[bytes]) -> str:
    """What rpm's database in `root` says of each package."""
    # A copy, since rpm writes beside a database even to read it.
    with TemporaryDirectory() as copy:
        shutil.copytree(root / DATABASE, copy, dirs_exist_ok=True)
        command = ["rpm", "--dbpath", copy, "--query", "--all", "--queryformat", form]
        return run(command, log=log, timeout_s=DATABASE_TIMEOUT_S, env={"HOME": copy})


def _explained(error: ImageError, system: System) -> ImageError | None:
    """What dnf's words mean for who wrote the recipe; None if we do not know better."""
    said = str(error)
    unknown = dict.fromkeys(_UNKNOWN_PACKAGE.findall(said))
    if unknown:
        return ImageError(
            f"no repository of the recipe has a package {', '.join(unknown)}: correct the recipe"
        )
    if missing := _MISSING_NEED.search(said):
        return ImageError(
            f"{missing['package']} needs {missing['need']}, which no repository of the recipe has"
        )
    if unsigned := _UNSIGNED.search(said):
        return ImageError(
            f"the package {unsigned[1]} is not signed, but its repository has a `key`"
        )
    if wrong := _WRONG_KEY.search(said):
        return ImageError(
            f"the package {wrong[1]} is signed by another key than its repository's: "
            "correct `key` in the recipe"
        )
    if _NO_SPACE.search(said):
        return ImageError(f"no space left on device while installing Rocky {system.release}")
    if curl := _CURL.search(said):
        repository = _BAD_REPOSITORY.search(said)
        whose = f" of the repository '{repository[1]}'" if repository else ""
        return ImageError(
            f"cannot fetch {curl['url']}{whose}: {curl['detail'] or curl['kind']} "
            "(check this machine's network, and `repositories` in the recipe)"
        )
    return None


def installed(root: Path, log: IO[bytes], /) -> Installed:
    """What is installed in `root`."""
    said = _query(root, "%{NAME} %{EVR} %{BUILDTIME}\\n", log)
    records = [line.split() for line in said.splitlines()]
    packages = {name: version for name, version, _ in records if name != _NOT_A_PACKAGE}
    times = [int(made) for name, _, made in records if name != _NOT_A_PACKAGE]
    return Installed(packages=packages, newest=max(times, default=0))
