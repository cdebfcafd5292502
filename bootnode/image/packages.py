"""Debian packages, fetched by apt into a folder of ours and never installed.

The kernel's name changes with each of Debian's updates, so a recipe names the package that follows
it (linux-image-amd64), and `fetch_kernel` finds the real one.

Limits: the newest 8 packages stay in the cache.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Self

from bootnode.errors import ImageError
from bootnode.image.foreign import LOOKUP_TIMEOUT_S, apt_options, known_files
from bootnode.image.run import run
from bootnode.image.store import file_sha256

MAX_CACHED_PACKAGES = 8
DOWNLOAD_PREFIX = ".download-"
DOWNLOAD_TIMEOUT_S = 1800.0
UNPACK_TIMEOUT_S = 600.0
_READ_BYTES = 1 << 20
# 'http://…' linux-image-6.1.0-56-amd64_6.1.192-2_amd64.deb 70550672 SHA256:…
_URI_LINE = re.compile(
    r"^'[^']+' (?P<file>[^\s/]+\.deb) \d+ SHA256:(?P<sha256>[0-9a-f]{64})$", re.M
)
_KERNEL_DEPENDENCY = re.compile(r"\blinux-image-[a-z0-9.+-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package file in the cache."""

    name: str
    version: str
    file: Path
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Packages:
    """What apt knows and can fetch, with the files it fetched before."""

    cache: Path
    log: IO[bytes]
    options: tuple[str, ...] = ()
    """Of every apt command; they say so if the packages are not of this machine's architecture."""

    @classmethod
    def of(cls, architecture: str, cache: Path, *, log: IO[bytes]) -> Self:
        """The packages of an architecture, as Debian calls it.

        Raises:
            ImageError: it is not this machine's, and its package lists cannot be fetched.
        """
        options = apt_options(architecture, cache / f"apt-{architecture}", log=log)
        return cls(cache=cache, log=log, options=options)

    def fetch_kernel(self, name: str) -> Package:
        """The kernel package `name`, or the one that `name` depends on.

        Raises:
            ImageError: apt does not know it, or cannot fetch it.
        """
        dependencies = _field(self._show(name), "Depends")
        real = _KERNEL_DEPENDENCY.search(dependencies)
        return self.fetch(real.group() if real else name)

    def fetch(self, name: str) -> Package:
        """The newest version of package `name` that apt knows, from the cache if it is there.

        Raises:
            ImageError: apt does not know it, or cannot fetch it.
        """
        version = _field(self._show(name), "Version")
        with TemporaryDirectory(dir=self.cache, prefix=DOWNLOAD_PREFIX) as empty:
            file_name, sha256 = self._location(name, Path(empty))
            file = self.cache / file_name
            if not file.exists() or file_sha256(file) != sha256:
                self._download(name, file, sha256, Path(empty))
        file.touch()
        self._prune()
        return Package(name=name, version=version, file=file, sha256=sha256)

    def unpack(self, package: Package, folder: Path) -> None:
        """Put the files of a package into `folder`; nothing of it is run."""
        run(
            ["dpkg-deb", "-x", str(package.file), str(folder)],
            log=self.log,
            timeout_s=UNPACK_TIMEOUT_S,
        )

    def state(self) -> list[str]:
        """Another one whenever apt may know of other packages: its lists or sources changed."""
        # Folders change with what is put into them; a changed line in a file does not touch them.
        files = known_files(self.options, self.log)
        return [f"{file} {file.stat().st_mtime_ns}" for file in files]

    def _show(self, name: str) -> str:
        try:
            return run(
                ["apt-cache", *self.options, "show", "--no-all-versions", name],
                log=self.log,
                timeout_s=LOOKUP_TIMEOUT_S,
            )
        except ImageError as error:
            if not self._has_lists():
                raise ImageError("apt's package lists are empty: run `apt-get update`") from error
            raise ImageError(
                f"apt knows no package '{name}': correct the recipe, or run `apt-get update`"
            ) from error

    def _has_lists(self) -> bool:
        command = ["apt-get", *self.options, "indextargets"]
        command += ["--format", "$(FILENAME)", "Created-By: Packages"]
        lists = run(command, log=self.log, timeout_s=LOOKUP_TIMEOUT_S)
        return any(Path(line).exists() for line in lists.splitlines())

    def _location(self, name: str, empty: Path) -> tuple[str, str]:
        # Where the file lies already, apt would name no place.
        command = ["apt-get", *self.options, "download", "--print-uris", name]
        match = _URI_LINE.search(run(command, log=self.log, timeout_s=LOOKUP_TIMEOUT_S, cwd=empty))
        if not match:
            raise ImageError(f"apt names no place to fetch '{name}' from: run `apt-get update`")
        return match["file"], match["sha256"]

    def _download(self, name: str, file: Path, sha256: str, empty: Path) -> None:
        # As root apt would fetch as its own user, who cannot write here.
        command = ["apt-get", *self.options, "download", "-o", "APT::Sandbox::User=root", name]
        run(command, log=self.log, timeout_s=DOWNLOAD_TIMEOUT_S, cwd=empty)
        fetched = empty / file.name
        if not fetched.exists() or file_sha256(fetched) != sha256:
            raise ImageError(f"what apt fetched for '{name}' is not {file.name}: try again")
        fetched.rename(file)

    def _prune(self) -> None:
        by_age = sorted(self.cache.glob("*.deb"), key=lambda deb: deb.stat().st_mtime, reverse=True)
        for old in by_age[MAX_CACHED_PACKAGES:]:
            old.unlink()


def _field(record: str, name: str) -> str:
    """A field of a package's record; empty when it has none."""
    match = re.search(rf"^{name}: (.*)$", record, re.M)
    return match[1] if match else ""
