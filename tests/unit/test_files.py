"""What FileRoots finds and what it refuses, on a real folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootnode import files
from bootnode.files import BytesSource, FileRoots, JoinedFiles, OpenFile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a bit of everything, beside a secret that is not in it."""
    folder = tmp_path / "served"
    for name in ("file", "dir/sub/deep", "Boot/BCD", "boot/x64/other", ".hidden", ".dir/inside"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "secret").write_text("not yours")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/BCD").write_text("not yours")
    links = {
        "inner": "dir/sub/deep",
        "absolute": str(folder / "file"),
        "dirlink": "dir",
        "version": ".dir",
        "escape": "../secret",
        "away": str(tmp_path / "outside"),
        "loop": "loop",
        "broken": "nowhere",
        "device": "/dev/null",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "fifo")
    return folder


FOUND = [
    ("file", "file"),
    ("/file", "file"),
    ("//file/", "file"),
    ("./file", "file"),
    ("\\file", "file"),
    ("\\\\file", "file"),
    ("dir/sub/deep", "dir/sub/deep"),
    ("dir//sub\\deep", "dir/sub/deep"),
    ("DIR/Sub/DEEP", "dir/sub/deep"),
    ("\\Boot\\BCD", "Boot/BCD"),
    ("\\boot\\bcd", "Boot/BCD"),
    ("BOOT/X64/Other", "boot/x64/other"),
    ("Boot/x64/other", "boot/x64/other"),
    ("inner", "dir/sub/deep"),
    ("absolute", "file"),
    ("dirlink/sub/deep", "dir/sub/deep"),
    ("DirLink/SUB/deep", "dir/sub/deep"),
    ("version/inside", ".dir/inside"),
]


@pytest.mark.parametrize(("name", "path"), FOUND)
def test_names_find_their_file(folder: Path, name: str, path: str) -> None:
    assert FileRoots([folder]).resolve(name) == (folder / path).resolve()


MISSING = [
    ("nothing", "'nothing' does not exist"),
    ("", "names no file"),
    ("/", "names no file"),
    ("./.", "names no file"),
    ("file/below", "does not exist"),
    ("broken", "does not exist"),
    ("x" * 300, "does not exist"),
    ("x" * 4096, "4096 characters is too long .limit 1024"),
    ("a/" * 500 + "b", "does not exist"),
    ("%2e%2e/secret", "does not exist"),
    ("\ud800", "cannot be a file name"),
    ("gr\udcfcn", "does not exist"),
]


@pytest.mark.parametrize(("name", "reason"), MISSING)
def test_missing_files_are_said_to_be_missing(folder: Path, name: str, reason: str) -> None:
    with pytest.raises(FileNotFoundError, match=reason):
        FileRoots([folder]).resolve(name)


REFUSED = [
    ("..", "leads upwards"),
    ("../secret", "leads upwards"),
    ("..\\secret", "leads upwards"),
    ("/../secret", "leads upwards"),
    ("dir/../file", "leads upwards"),
    ("dir/..", "leads upwards"),
    (".hidden", "names a hidden file"),
    (".dir/inside", "names a hidden file"),
    ("dir/.nothing", "names a hidden file"),
    ("...", "names a hidden file"),
    ("file\0", "contains a NUL"),
    ("\0", "contains a NUL"),
    ("escape", "symlink that leaves"),
    ("ESCAPE", "symlink that leaves"),
    ("away/BCD", "symlink that leaves"),
    ("device", "symlink that leaves"),
    ("loop", "goes round in circles"),
    ("dir", "not a regular file"),
    ("dirlink", "not a regular file"),
    ("fifo", "not a regular file"),
]


@pytest.mark.parametrize(("name", "reason"), REFUSED)
def test_what_may_not_be_served_is_refused(folder: Path, name: str, reason: str) -> None:
    with pytest.raises(PermissionError, match=reason) as caught:
        FileRoots([folder]).resolve(name)
    assert str(folder) not in str(caught.value)


def test_a_folded_walk_does_not_leave_the_folder(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileRoots([folder]).resolve("AWAY/bcd")


def test_folders_are_searched_in_order_exact_names_first(tmp_path: Path) -> None:
    for name in ("own/LOADER.EFI", "own/both", "debian/loader.efi", "debian/both"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    roots = FileRoots([tmp_path / "own", tmp_path / "missing", tmp_path / "debian"])
    assert roots.resolve("both").read_text() == "own/both"
    assert roots.resolve("loader.efi").read_text() == "debian/loader.efi"
    assert roots.resolve("Loader.efi").read_text() == "own/LOADER.EFI"


def test_a_file_refused_in_one_folder_may_be_found_in_another(tmp_path: Path) -> None:
    for name in ("own", "debian"):
        (tmp_path / name).mkdir()
    (tmp_path / "elsewhere.efi").write_text("elsewhere")
    (tmp_path / "own/ipxe.efi").symlink_to("../elsewhere.efi")
    roots = FileRoots([tmp_path / "own", tmp_path / "debian"])
    with pytest.raises(PermissionError):
        roots.resolve("ipxe.efi")
    (tmp_path / "debian/ipxe.efi").write_text("debian")
    assert roots.resolve("ipxe.efi").read_text() == "debian"


def test_a_folder_that_is_a_symlink_may_be_switched(tmp_path: Path) -> None:
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "file").write_text(version)
    current = tmp_path / "current"
    current.symlink_to("one")
    roots = FileRoots([current])
    assert roots.resolve("file").read_text() == "one"
    current.unlink()
    current.symlink_to("two")
    assert roots.resolve("file").read_text() == "two"


def test_aliases_name_single_files_anywhere(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/ipxe.efi").write_text("alias")
    (tmp_path / "link.efi").symlink_to("boot/ipxe.efi")
    aliases = {"ipxe.efi": tmp_path / "boot/ipxe.efi", "efi/link.efi": tmp_path / "link.efi"}
    roots = FileRoots([tmp_path / "own"], aliases={**aliases, "gone": tmp_path / "gone"})
    assert roots.resolve("/IPXE.efi") == (tmp_path / "boot/ipxe.efi").resolve()
    assert roots.resolve("efi\\link.efi") == (tmp_path / "boot/ipxe.efi").resolve()
    with pytest.raises(FileNotFoundError):
        roots.resolve("gone")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/ipxe.efi").write_text("own")
    assert roots.resolve("ipxe.efi").read_text() == "own"


def test_a_huge_folder_is_searched_by_exact_name_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(files, "MAX_FOLDED_ENTRIES", 3)
    assert FileRoots([tmp_path]).resolve("ONE").name == "one"
    monkeypatch.setattr(files, "MAX_FOLDED_ENTRIES", 2)
    with pytest.raises(FileNotFoundError):
        FileRoots([tmp_path]).resolve("ONE")
    assert FileRoots([tmp_path]).resolve("one").name == "one"


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EACCES, PermissionError), (errno.EIO, OSError), (errno.ESTALE, OSError)],
)
def test_errors_of_the_disk_name_no_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[OSError]
) -> None:
    def fail(path: Path, **_: object) -> str:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os.path, "realpath", fail)
    with pytest.raises(kind) as caught:
        FileRoots([folder]).resolve("file")
    assert not isinstance(caught.value, FileNotFoundError)
    assert str(folder) not in str(caught.value)


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("shared")
    (top / "secret").write_text("not yours")
    for name in ("a", "B", "dir/a"):
        (top / "served" / name).parent.mkdir(parents=True, exist_ok=True)
        (top / "served" / name).write_text("served")
    return top / "served"


HOSTILE = st.text(st.sampled_from("aAbB./\\\0~%") | st.characters(), max_size=30)
PIECES = st.lists(
    st.sampled_from(["..", ".", "/", "\\", "a", "B", "dir", "secret", "served", "\0", "~"])
)


@given(HOSTILE | PIECES.map("/".join) | PIECES.map("".join))
def test_no_name_leads_out(shared_folder: Path, name: str) -> None:
    try:
        found = FileRoots([shared_folder]).resolve(name)
    except (FileNotFoundError, PermissionError):
        return
    assert found.is_file()
    assert shared_folder.resolve() in found.parents


def test_an_open_file_is_read_in_pieces_and_stays_the_same(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"0123456789")
    source = OpenFile(path)
    path.unlink()
    path.write_bytes(b"another")
    assert source.size == 10
    assert source.read(0, 4) == b"0123"
    assert source.read(8, 4) == b"89"
    assert source.read(10, 4) == b""
    source.close()
    source.close()


def test_a_file_that_shrinks_gives_fewer_bytes(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"0123456789")
    source = OpenFile(path)
    os.truncate(path, 3)
    assert source.size == 10
    assert source.read(2, 4) == b"2"
    source.close()


@pytest.mark.parametrize("name", ["fifo", "dir"])
def test_only_regular_files_are_opened(folder: Path, name: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(PermissionError, match="not a regular file"):
        OpenFile(folder / name)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_symlink_is_not_opened(folder: Path) -> None:
    with pytest.raises(OSError, match="symbolic links"):
        OpenFile(folder / "inner")


def test_generated_content_reads_like_a_file() -> None:
    source = BytesSource(b"#!ipxe\n")
    assert source.size == 7
    assert source.read(0, 100) == b"#!ipxe\n"
    assert source.read(2, 3) == b"ipx"
    assert source.read(7, 3) == b""
    source.close()


def joined(folder: Path) -> JoinedFiles:
    (folder / "file").write_bytes(b"0123456789")
    sources: list[OpenFile | BytesSource]
    sources = [BytesSource(b"head"), OpenFile(folder / "file"), BytesSource(b""), BytesSource(b"x")]
    return JoinedFiles(sources, tag="t")


JOINED = b"head0123456789x"


@given(st.integers(0, len(JOINED) + 2), st.integers(0, len(JOINED) + 2))
def test_joined_files_read_like_one(shared_folder: Path, offset: int, length: int) -> None:
    source = joined(shared_folder)
    assert source.size == len(JOINED)
    assert source.read(offset, length) == JOINED[offset : offset + length]
    spans = list(source.spans(offset, length))
    assert sum(span.length for span in spans) == len(source.read(offset, length))
    assert all(span.length > 0 for span in spans)
    source.close()


def test_joined_files_are_all_closed(folder: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    source = joined(folder)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    source.close()
    source.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_joined_is_empty() -> None:
    assert JoinedFiles([], tag="").read(0, 10) == b""
