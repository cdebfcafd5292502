"""Built images on disk: `NAME/VERSION/` with its files and `manifest.json`, and `NAME/current`.

Rules: VERSION is made from the content, so the same content is the same version; a version never
changes once it is there; whoever reads sees a version whole or not at all, because it appears by
one rename and `current` is replaced by another. Only the holder of the store's lock writes. The
files are readable by all: another user serves them.

Limits: one build at a time in a store.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from pydantic import BaseModel, ConfigDict, ValidationError

from bootnode.config import check_image_name
from bootnode.errors import ImageError

MANIFEST = "manifest.json"
VERSION_LENGTH = 16
_VERSION_PATTERN = re.compile(rf"[0-9a-f]{{{VERSION_LENGTH}}}")
_CURRENT = "current"
_LOCK = ".lock"
_STAGING_PREFIX = ".staging-"
_DELETED_PREFIX = ".deleted-"


class FileEntry(BaseModel):
    """One file of a version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size_bytes: int
    sha256: str


class RootFile(BaseModel):
    """The root file system of a version, and how a node gets it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str
    """`squashfs`, `erofs`, `tar.xz`, `tar.zst` or `cpio`."""
    fetch: str
    """`init`: init fetches it. `ramdisk`: it is in the last ramdisk."""
    file: str
    """Its name beside the kernel, or its path in the unpacked ramdisk."""
    size_bytes: int
    sha256: str
    """Of the archive as it is stored; of the ramdisk for a cpio, which only the kernel unpacks."""
    ram_bytes: int
    """Memory that it takes on a node, without what the node writes."""


class Contents(BaseModel):
    """What a builder says about the files it made; with their hashes it makes the version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kernel: str
    """File name of the kernel."""
    initrds: tuple[str, ...]
    """File names of the ramdisks, in the order they are unpacked."""
    kernel_args: tuple[str, ...] = ()
    kernel_release: str
    """What `uname -r` says on the node."""
    ram_bytes: int
    """Memory that the unpacked ramdisks and the root file system take."""
    root: RootFile | None = None
    """None when the ramdisk is all there is."""


class Provenance(BaseModel):
    """Where an image comes from; the same content from elsewhere is the same version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe_sha256: str
    packages: dict[str, str]
    """Version of each Debian package that was taken apart."""


class Manifest(Contents, Provenance):
    """All of manifest.json."""

    name: str
    version: str
    files: tuple[FileEntry, ...]
    built_at: int
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageVersion:
    """One published version of an image."""

    name: str
    version: str
    folder: Path
    kernel: str
    """File name of the kernel."""
    initrds: tuple[str, ...]
    """File names of the ramdisks, in the order they are unpacked."""
    kernel_args: tuple[str, ...]
    manifest: Manifest


class ImageStore:
    """The images of one state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """The images that have a version."""
        if not self.folder.is_dir():
            return []
        named = (entry for entry in self.folder.iterdir() if not entry.name.startswith("."))
        return sorted(entry.name for entry in named if self._version_names(entry.name))

    def versions(self, name: str) -> list[ImageVersion]:
        """The versions of an image, oldest first; none if it was never built.

        Raises:
            ImageError: the name cannot be an image's, or a manifest is damaged.
        """
        found = [self.load(name, version) for version in self._version_names(name)]
        return sorted(found, key=lambda image: (image.manifest.built_at, image.version))

    def current(self, name: str) -> ImageVersion:
        """The version that a node gets now.

        Raises:
            ImageError: there is none, or its manifest is damaged.
        """
        link = self._image_folder(name) / _CURRENT
        try:
            version = link.readlink().name
        except OSError as error:
            raise _not_built(name) from error
        return self.load(name, version)

    def load(self, name: str, version: str) -> ImageVersion:
        """One version of an image.

        Raises:
            ImageError: it is not there, or its manifest is damaged.
        """
        folder = self._version_folder(name, version)
        try:
            manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
        except FileNotFoundError as error:
            raise ImageError(f"image '{name}' has no version {version}") from error
        except (OSError, ValidationError) as error:
            raise ImageError(
                f"{folder / MANIFEST} cannot be read: run `bootnode image delete {name} {version}` "
                f"and build it again ({_first_line(error)})"
            ) from error
        return ImageVersion(
            name=name,
            version=version,
            folder=folder,
            kernel=manifest.kernel,
            initrds=manifest.initrds,
            kernel_args=manifest.kernel_args,
            manifest=manifest,
        )

    @contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """A new folder on the store's file system, for one build; gone afterwards.

        What a build that was killed left behind is removed first.

        Raises:
            ImageError: the name cannot be an image's, or somebody builds at this moment.
        """
        image_folder = self._image_folder(name)
        with self._locked():
            self._remove_leftovers()
            folder = Path(mkdtemp(dir=self.folder, prefix=f"{_STAGING_PREFIX}{image_folder.name}-"))
            try:
                yield folder
            finally:
                shutil.rmtree(folder)

    def publish(
        self, name: str, staged: Path, contents: Contents, provenance: Provenance
    ) -> ImageVersion:
        """Make the files in `staged` the current version of an image; inside `staging` only.

        Publishing what is there already changes nothing but `current`.
        """
        image_folder = self._image_folder(name)
        files = tuple(_describe(file) for file in sorted(staged.iterdir()))
        version = _version(name, contents, files)
        target = image_folder / version
        _make_readable_folder(image_folder)
        if not (target / MANIFEST).exists():
            manifest = Manifest(
                **contents.model_dump(),
                **provenance.model_dump(),
                name=name,
                version=version,
                files=files,
                built_at=int(time.time()),
            )
            _write_manifest(staged / MANIFEST, manifest)
            _seal(staged)
            staged.rename(target)
            _sync(image_folder)
        self._point_current_to(image_folder, version)
        return self.load(name, version)

    def delete(self, name: str, version: str) -> None:
        """Remove one version; the current one only if it is the last.

        Raises:
            ImageError: it is not there, is current, or a build runs at this moment.
        """
        folder = self._version_folder(name, version)
        with self._locked():
            if not folder.is_dir():
                raise ImageError(f"image '{name}' has no version {version}")
            link = folder.parent / _CURRENT
            if link.is_symlink() and link.readlink().name == version:
                if len(self._version_names(name)) > 1:
                    raise ImageError(f"version {version} is what nodes get as '{name}' now: kept")
                link.unlink()
            # Out of sight by one rename, so that nobody sees half a version.
            doomed = Path(mkdtemp(dir=self.folder, prefix=_DELETED_PREFIX))
            folder.rename(doomed / version)
            shutil.rmtree(doomed)
            if not any(folder.parent.iterdir()):
                folder.parent.rmdir()

    def _image_folder(self, name: str) -> Path:
        try:
            return self.folder / check_image_name(name)
        except ValueError as error:
            raise ImageError(str(error)) from error

    def _version_folder(self, name: str, version: str) -> Path:
        if not _VERSION_PATTERN.fullmatch(version):
            raise ImageError(f"'{version}' is not a version (want {VERSION_LENGTH} hex digits)")
        return self._image_folder(name) / version

    def _version_names(self, name: str) -> list[str]:
        folder = self._image_folder(name)
        if not folder.is_dir():
            return []
        return sorted(e.name for e in folder.iterdir() if _VERSION_PATTERN.fullmatch(e.name))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        _make_readable_folder(self.folder)
        with (self.folder / _LOCK).open("ab") as lock:
            try:
                # The kernel lets go of it however we end, so a killed build blocks nobody.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ImageError(
                    f"another build runs in {self.folder}: wait until it has ended"
                ) from error
            yield

    def _remove_leftovers(self) -> None:
        for entry in self.folder.iterdir():
            if entry.name.startswith((_STAGING_PREFIX, _DELETED_PREFIX)):
                shutil.rmtree(entry)

    def _point_current_to(self, image_folder: Path, version: str) -> None:
        new_link = image_folder / f".{_CURRENT}.new"
        new_link.unlink(missing_ok=True)
        new_link.symlink_to(version)
        new_link.replace(image_folder / _CURRENT)
        _sync(image_folder)


def hash_tree(*folders: Path) -> str:
    """The SHA-256 of folders' contents: names, executable bits, links and bytes."""
    total = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink():
                content = b"link " + os.fsencode(path.readlink())
            elif path.is_file():
                executable = path.stat().st_mode & 0o100
                content = f"file {executable} {file_sha256(path)}".encode()
            else:
                content = b"folder"
            total.update(os.fsencode(path.relative_to(folder)) + b"\0" + content + b"\0")
    return total.hexdigest()


def _not_built(name: str) -> ImageError:
    return ImageError(f"image '{name}' is not built: run `bootnode image build {name}`")


def _version(name: str, contents: Contents, files: tuple[FileEntry, ...]) -> str:
    essentials = {
        "name": name,
        "contents": contents.model_dump(mode="json"),
        "files": [file.model_dump() for file in files],
    }
    text = json.dumps(essentials, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:VERSION_LENGTH]


def _describe(file: Path) -> FileEntry:
    return FileEntry(name=file.name, size_bytes=file.stat().st_size, sha256=file_sha256(file))


def file_sha256(file: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _write_manifest(path: Path, manifest: Manifest) -> None:
    path.write_text(json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n")


def _seal(folder: Path) -> None:
    """Make a version readable by all and writable by none, and be sure that it is on the disk."""
    for file in folder.iterdir():
        file.chmod(0o444)
        _sync(file)
    folder.chmod(0o755)
    _sync(folder)


def _make_readable_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True)
        # Whatever the umask: the daemon is another user.
        folder.chmod(0o755)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
