"""Finding the files that nodes may read, and nothing else. TFTP and HTTP both ask here.

Names come from strangers. Rules:
- Backslashes count as slashes; leading, doubled and trailing slashes and `.` say nothing.
- `..`, NUL and names that start with a dot are refused, whatever is there.
- A symlink may lead anywhere inside its folder, never out of it. Only regular files are served.
- Folders are searched in order, each by the exact name; then each once more without regard to
  case, as Windows boot loaders need; then the single files (aliases).

Limits: a name has at most MAX_NAME characters; a folder of more than MAX_FOLDED_ENTRIES entries is
searched by exact name only, so that a miss stays cheap.

What `resolve` raises never names a path of the server, so it may be shown to a client.
"""

from __future__ import annotations

import errno
import os
import stat
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path

MAX_NAME = 1024
MAX_FOLDED_ENTRIES = 4096

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


class FileRoots:
    """The folders and single files that may be served."""

    def __init__(
        self, folders: Sequence[Path], *, aliases: Mapping[str, Path] | None = None
    ) -> None:
        """`folders` in order of search; `aliases` maps extra names to single files anywhere."""
        self._folders = tuple(folders)
        self._aliases = {name.casefold(): path for name, path in (aliases or {}).items()}

    def resolve(self, name: str) -> Path:
        """The regular file a client means by `name`, with all symlinks followed.

        Raises:
            FileNotFoundError: there is no such file.
            PermissionError: there is, but it may not be served; or the name itself is not allowed.
            OSError: the disk failed.
        """
        parts = _split(name)
        refusal: PermissionError | None = None
        for candidate, root in self._candidates(parts):
            try:
                return _admit(candidate, root, name)
            except PermissionError as error:
                # Debian's /usr/lib/ipxe/ipxe.efi leads out of its folder; an alias may serve it.
                refusal = refusal or error
            except FileNotFoundError:
                continue
        raise refusal or FileNotFoundError(f"{name!a} does not exist")

    def _candidates(self, parts: Sequence[str]) -> Iterator[tuple[Path, Path]]:
        """Paths worth trying, the best first, each with the folder it must stay in."""
        for folder in self._folders:
            yield folder.joinpath(*parts), folder
        for folder in self._folders:
            for path in _match_folded(folder, folder, parts):
                yield path, folder
        alias = self._aliases.get("/".join(parts).casefold())
        if alias is not None:
            # A person wrote this very path, so wherever its symlinks lead is meant.
            yield alias, Path("/")


class OpenFile:
    """A regular file on disk, opened once: it stays the same file if another takes its name."""

    def __init__(self, path: Path) -> None:
        """Open a path that `FileRoots.resolve` gave.

        Raises:
            PermissionError: it is not a regular file any more, or not readable for this process.
            OSError: it cannot be opened.
        """
        self.name = str(path)
        # O_NONBLOCK: opening a FIFO that nobody writes to would wait for ever.
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise PermissionError(f"{path.name!a} is not a regular file")
        # Reads happen in the event loop: have the kernel fetch ahead of them.
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_WILLNEED)
        self.size = status.st_size

    def fileno(self) -> int:
        """The file descriptor, for sendfile."""
        return self._fd

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset`; fewer than `length` only where the file ends."""
        return os.pread(self._fd, length, offset)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class BytesSource:
    """Generated content, served like a file."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset`; fewer than `length` only where the content ends."""
        return self.content[offset : offset + length]

    def close(self) -> None:
        """Nothing to give back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A run of bytes within one source."""

    source: OpenFile | BytesSource
    offset: int
    length: int


class JoinedFiles:
    """Generated content and open files one behind the other, served like one file."""

    def __init__(self, sources: Sequence[OpenFile | BytesSource], *, tag: str) -> None:
        """Take over `sources`, in their order; another `tag` tells of another content."""
        self.tag = tag
        self._sources = tuple(sources)
        ends = list(accumulate(source.size for source in sources))
        self._begins = [0, *ends[:-1]]
        self.size = ends[-1] if ends else 0

    def spans(self, offset: int, length: int) -> Iterator[Span]:
        """What the bytes from `offset` consist of; less than `length` only at the end."""
        end = min(offset + length, self.size)
        # Most reads lie in the middle of a big file: no search through all that is before it.
        for index in range(max(bisect_right(self._begins, offset) - 1, 0), len(self._sources)):
            source, begin = self._sources[index], self._begins[index]
            first, last = max(offset, begin), min(end, begin + source.size)
            if first < last:
                yield Span(source=source, offset=first - begin, length=last - first)

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset`; fewer than `length` only where the content ends."""
        return b"".join(
            span.source.read(span.offset, span.length) for span in self.spans(offset, length)
        )

    def close(self) -> None:
        """Close all files; a second call does nothing."""
        for source in self._sources:
            source.close()


def _split(name: str) -> list[str]:
    """The components of a client's name, or the reason why it is not allowed."""
    if len(name) > MAX_NAME:
        raise FileNotFoundError(f"a name of {len(name)} characters is too long (limit {MAX_NAME})")
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        raise FileNotFoundError(f"{name!a} cannot be a file name") from None
    if "\0" in name:
        raise PermissionError(f"{name!a} contains a NUL")
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if not parts:
        raise FileNotFoundError("the request names no file")
    for part in parts:
        if part.startswith("."):
            what = "leads upwards" if part == ".." else "names a hidden file"
            raise PermissionError(f"{name!a} {what}")
    return parts


def _admit(candidate: Path, root: Path, name: str) -> Path:
    """`candidate` with its symlinks followed, if it is a regular file inside `root`."""
    try:
        real = Path(os.path.realpath(candidate, strict=True))
        inside = real.is_relative_to(os.path.realpath(root))
        regular = stat.S_ISREG(real.stat().st_mode)
    except OSError as error:
        raise _without_path(error, name) from None
    if not inside:
        raise PermissionError(f"{name!a} is a symlink that leaves its folder")
    if not regular:
        raise PermissionError(f"{name!a} is not a regular file")
    return real


def _without_path(error: OSError, name: str) -> OSError:
    """The same error in words that a client may see."""
    if error.errno in _NOT_THERE:
        return FileNotFoundError(f"{name!a} does not exist")
    if error.errno == errno.ELOOP:
        return PermissionError(f"{name!a} is a symlink that goes round in circles")
    if error.errno == errno.EACCES:
        return PermissionError(f"{name!a} may not be read by this server")
    return OSError(error.errno, f"{name!a}: {error.strerror}")


def _match_folded(root: Path, folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Paths under `folder` that spell `parts` in another case; directories never leave `root`."""
    for entry in _entries_folded(folder, parts[0]):
        path = folder / entry
        if len(parts) == 1:
            yield path
        elif Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
            yield from _match_folded(root, path, parts[1:])


def _entries_folded(folder: Path, wanted: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, MAX_FOLDED_ENTRIES + 1)]
    except OSError:
        # Missing, no directory, or not readable: the exact search has told which.
        return []
    if len(names) > MAX_FOLDED_ENTRIES:
        return []
    return sorted(name for name in names if name.casefold() == wanted.casefold())
