"""Built images on disk: `NAME/VERSION/` with its files and `manifest.json`, and `NAME/current`.

Rules: VERSION is made from the content, so the same content is the same version; a version never
changes once it is there; whoever reads sees a version whole or not at all, because it appears and
disappears by one rename, and `current` is replaced by another. `history` has the versions that were
current (retention.py); it is written before `current` moves, which alone decides. Only the holder
of the store's lock writes. The files are readable by all: another user serves them.

Limits: one build at a time in a store, or one who deletes or rolls back.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from pydantic import BaseModel, ConfigDict, ValidationError

from bootnode.config import check_image_name
from bootnode.errors import ImageError
from bootnode.image.durable import (
    NEW_SUFFIX,
    freed_bytes,
    make_readable_folder,
    replace_link,
    replace_text,
    seal,
    sync,
)
from bootnode.image.retention import past, push
from bootnode.nodes import Loader

MANIFEST = "manifest.json"
VERSION_LENGTH = 16
_VERSION_PATTERN = re.compile(rf"[0-9a-f]{{{VERSION_LENGTH}}}")
_CURRENT = "current"
_HISTORY = "history"
_LOCK = ".lock"
_STAGING_PREFIX = ".staging-"
_DELETED_PREFIX = ".deleted-"
CURRENT_TRIES = 3
"""How often a reader follows `current` that is moved away just then."""


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

    architecture: str = "amd64"
    """Of the machines that it is for, as Debian calls it."""
    kernel: str
    """File name of the kernel."""
    initrds: tuple[str, ...]
    """File names of the ramdisks, in the order they are unpacked."""
    kernel_args: tuple[str, ...] = ()
    kernel_release: str
    """What `uname -r` says on the node."""
    loader: Loader | None = None
    """How nodes that don't say otherwise get to the kernel."""
    stub: str | None = None
    """File name of the UEFI stub for unified kernel images; None in an image of an old build."""
    ram_bytes: int
    """Memory that the unpacked ramdisks and the root file system take."""
    root: RootFile | None = None
    """None when the ramdisk is all there is."""
    node_files: str | None = None
    """File name of the archive that the files of each node are rendered from, if there is one."""


class KeptChange(BaseModel):
    """A change that somebody made in a shell, and that is in the image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    by: str
    made_at: int
    """Seconds since 1970."""
    sha256: str
    """Of its files."""


class Provenance(BaseModel):
    """Where an image comes from; the same content from elsewhere is the same version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe_sha256: str
    packages: dict[str, str]
    """Version of each Debian package that was taken apart."""
    changes: tuple[KeptChange, ...] = ()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedVersion:
    """A version whose manifest cannot be read: no node gets it."""

    name: str
    version: str
    reason: str


class ImageStore:
    """The images of one state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """The images that have a version."""
        if not self.folder.is_dir():
            return []
        named = (entry for entry in self.folder.iterdir() if not entry.name.startswith("."))
        return sorted(entry.name for entry in named if self.version_names(entry.name))

    def version_names(self, name: str) -> list[str]:
        """The versions of an image, damaged ones too, in no order; none if it was never built.

        Raises:
            ImageError: the name cannot be an image's.
        """
        folder = self._image_folder(name)
        if not folder.is_dir():
            return []
        return sorted(e.name for e in folder.iterdir() if _VERSION_PATTERN.fullmatch(e.name))

    def versions(self, name: str) -> list[ImageVersion | DamagedVersion]:
        """The versions of an image: damaged ones, then the others, the oldest first.

        Raises:
            ImageError: the name cannot be an image's.
        """
        damaged, whole = [], []
        for version in self.version_names(name):
            try:
                whole.append(self.load(name, version))
            except ImageError as error:
                damaged.append(DamagedVersion(name=name, version=version, reason=str(error)))
        return [*damaged, *sorted(whole, key=lambda v: (v.manifest.built_at, v.version))]

    def current(self, name: str) -> ImageVersion:
        """The version that a node gets now.

        Raises:
            ImageError: there is none, or its manifest is damaged.
        """
        for _ in range(CURRENT_TRIES - 1):
            version = self.current_name(name)
            if version is None:
                break
            try:
                return self.load(name, version)
            except ImageError:
                # It may have been replaced and removed since the link was read.
                if self.current_name(name) == version:
                    raise
        version = self.current_name(name)
        if version is None:
            raise _not_built(name)
        return self.load(name, version)

    def current_name(self, name: str) -> str | None:
        """The name of the version that is current; None if there is none.

        Raises:
            ImageError: the name cannot be an image's.
        """
        try:
            return self.current_link(name).readlink().name
        except OSError:
            return None

    def current_link(self, name: str) -> Path:
        """The link to the version that is current.

        Raises:
            ImageError: the name cannot be an image's.
        """
        return self._image_folder(name) / _CURRENT

    def past(self, name: str) -> list[str]:
        """The versions that were current before the one that is now and are still there.

        The latest comes first.

        Raises:
            ImageError: the name cannot be an image's.
        """
        history = self._history(name)
        there = set(self.version_names(name))
        return [version for version in past(history, self.current_name(name)) if version in there]

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
                f"{folder / MANIFEST} cannot be read: run `bootnode image build {name}`, which "
                f"mends it or makes another version ({_first_line(error)})"
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

        Publishing what is there already changes nothing but `current`, unless it was damaged since.

        Raises:
            ImageError: the name cannot be an image's, or the root is not what its archiver made.
        """
        image_folder = self._image_folder(name)
        files = tuple(_describe(file) for file in sorted(staged.iterdir()))
        _check_root(name, contents.root, files)
        version = _version(name, contents, files)
        target = image_folder / version
        make_readable_folder(image_folder)
        if target.exists() and not self._is_whole(name, version, files, staged):
            self._remove(target, f"{name}-{version}")
        if not target.exists():
            manifest = Manifest(
                **contents.model_dump(),
                **provenance.model_dump(),
                name=name,
                version=version,
                files=files,
                built_at=int(time.time()),
            )
            _write_manifest(staged / MANIFEST, manifest)
            seal(staged)
            staged.rename(target)
            sync(image_folder)
        return self.make_current(name, version)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """The right to delete versions and to move `current`, while nobody else builds.

        Raises:
            ImageError: a build runs at this moment, or the disk refuses.
        """
        try:
            with self._locked():
                self._remove_leftovers()
                yield
        except OSError as error:
            place = error.filename or self.folder
            remedy = ": run this as root" if isinstance(error, PermissionError) else ""
            raise ImageError(
                f"images cannot be changed: {error.strerror} ({place}){remedy}"
            ) from error

    def make_current(self, name: str, version: str) -> ImageVersion:
        """Let nodes get this version; inside `staging` or `changing` only.

        Raises:
            ImageError: it is not there, or its manifest is damaged.
        """
        image = self.load(name, version)
        before = self.current_name(name)
        if before != version:
            # Before the link: if we are killed between, the link still says what holds.
            history = push(self._history(name), before, version)
            replace_text(self._image_folder(name) / _HISTORY, "\n".join([*history, ""]))
            replace_link(self.current_link(name), version)
        return image

    def roll_back(self, name: str) -> ImageVersion:
        """Let nodes get the version that was current before; inside `changing` only.

        Raises:
            ImageError: none was, or its manifest is damaged.
        """
        before = self.past(name)
        if not before:
            there = ", ".join(self.version_names(name))
            if not there:
                raise _not_built(name)
            raise ImageError(
                f"no version of '{name}' that is still there was current before: name one, "
                f"`bootnode image rollback {name} VERSION` (there are: {there})"
            )
        # The history stays: what comes after `current` in it is the future no more.
        image = self.load(name, before[0])
        replace_link(self.current_link(name), image.version)
        return image

    def delete(self, name: str, version: str) -> int:
        """Remove a version that is not current, or the last one; inside `changing` only.

        Returns the bytes that this frees: a file that a build has cached still takes its place.

        Raises:
            ImageError: it is not there, or is current.
        """
        folder = self._version_folder(name, version)
        if not folder.is_dir():
            raise ImageError(f"image '{name}' has no version {version}")
        if self.version_names(name) == [version]:
            return self.delete_all(name)
        if self.current_name(name) == version:
            raise ImageError(
                f"version {version} is what nodes get as '{name}' now: build or roll back to "
                "another one first"
            )
        return self._remove(folder, f"{name}-{version}")

    def delete_all(self, name: str) -> int:
        """Remove an image with all its versions; inside `changing` only.

        Returns the bytes that this frees.

        Raises:
            ImageError: it is not there.
        """
        folder = self._image_folder(name)
        if not folder.is_dir():
            raise _not_built(name)
        return self._remove(folder, name)

    def _is_whole(self, name: str, version: str, files: Sequence[FileEntry], staged: Path) -> bool:
        """Whether a published version still has the content that it is named by."""
        try:
            folder = self.load(name, version).folder
            return all(_has_content(folder / file.name, file, staged) for file in files)
        except (ImageError, FileNotFoundError):
            return False

    def _remove(self, folder: Path, name: str) -> int:
        # Out of sight by one rename, so that nobody sees half a version; it needs no space either.
        doomed = self.folder / f"{_DELETED_PREFIX}{name}"
        folder.rename(doomed)
        freed = sum(freed_bytes(file) for file in doomed.rglob("*"))
        shutil.rmtree(doomed)
        return freed

    def _image_folder(self, name: str) -> Path:
        try:
            return self.folder / check_image_name(name)
        except ValueError as error:
            raise ImageError(str(error)) from error

    def _version_folder(self, name: str, version: str) -> Path:
        if not _VERSION_PATTERN.fullmatch(version):
            raise ImageError(f"'{version}' is not a version (want {VERSION_LENGTH} hex digits)")
        return self._image_folder(name) / version

    @contextmanager
    def _locked(self) -> Iterator[None]:
        make_readable_folder(self.folder)
        with (self.folder / _LOCK).open("ab", buffering=0) as lock:
            try:
                # The kernel lets go of it however we end, so a killed build blocks nobody.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ImageError(
                    f"another build runs in {self.folder}, or versions are deleted there"
                    f"{_holder(self.folder / _LOCK)}: wait until that has ended"
                ) from error
            with suppress(OSError):  # a courtesy, for which a full disk may have no room
                lock.truncate(0)
                lock.write(f"process {os.getpid()}: {_own_command()}".encode())
            yield

    def _remove_leftovers(self) -> None:
        for entry in self.folder.iterdir():
            if entry.name.startswith((_STAGING_PREFIX, _DELETED_PREFIX)):
                shutil.rmtree(entry)
        for file in self.folder.glob(f"*/.*{NEW_SUFFIX}"):
            file.unlink()

    def _history(self, name: str) -> list[str]:
        try:
            text = (self._image_folder(name) / _HISTORY).read_text("ascii", errors="replace")
        except FileNotFoundError:
            return []
        return [line for line in text.split() if _VERSION_PATTERN.fullmatch(line)]


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


def _own_command() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _holder(lock: Path) -> str:
    """Who holds the lock, in brackets; nothing in the moment before they have said so."""
    said = lock.read_text(errors="replace")
    return f" ({said})" if said else ""


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


def _has_content(file: Path, wanted: FileEntry, staged: Path) -> bool:
    # What the cache and the version share by a hard link was read for the name of the version.
    return file.samefile(staged / wanted.name) or _describe(file) == wanted


def _check_root(name: str, root: RootFile | None, files: Sequence[FileEntry]) -> None:
    """Find a cached archive that the disk has damaged: every node would refuse it."""
    for file in files:
        if root is not None and file.name == root.file and file.sha256 != root.sha256:
            raise ImageError(
                f"the cached {file.name} of '{name}' is damaged: run "
                f"`bootnode image build {name} --from archive`"
            )


def _write_manifest(path: Path, manifest: Manifest) -> None:
    path.write_text(json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
