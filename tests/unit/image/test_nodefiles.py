"""The tree of node files, from folders to an archive of a version and back."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from bootnode.errors import ImageError
from bootnode.image import cpio, nodefiles
from bootnode.image.store import ImageVersion, Manifest


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def version_in(folder: Path, node_files: str | None = nodefiles.FILE) -> ImageVersion:
    manifest = Manifest(
        name="tiny",
        version="0123456789abcdef",
        kernel="vmlinuz",
        initrds=("initrd.img",),
        kernel_release="6.1",
        ram_bytes=1,
        node_files=node_files,
        files=(),
        built_at=0,
        recipe_sha256="",
        packages={},
    )
    return ImageVersion(
        name="tiny",
        version="0123456789abcdef",
        folder=folder,
        kernel="vmlinuz",
        initrds=("initrd.img",),
        kernel_args=(),
        manifest=manifest,
    )


def test_there_and_back(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "files", {"etc/hostname.j2": "{{ node.name }}", "bin/tool": "x", "etc/é": "ö"}
    )
    (folder / "bin/tool").chmod(0o700)
    (folder / "etc/link").symlink_to("../bin/tool")
    (folder / "empty").mkdir()
    nodefiles.write(nodefiles.read([folder]), tmp_path / nodefiles.FILE)
    tree = nodefiles.load(version_in(tmp_path))
    assert tree is not None
    assert tree.plain == [
        cpio.file("bin/tool", b"x", executable=True),
        cpio.symlink("etc/link", "../bin/tool"),
        cpio.file("etc/é", "ö".encode()),
    ]
    ((made, template),) = tree.templates
    assert (made, template.name) == (cpio.file("etc/hostname", b""), "etc/hostname.j2")
    assert nodefiles.load(version_in(tmp_path)) is tree  # kept in memory


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    archives = []
    for name, mode in (("one", 0o600), ("other", 0o664)):
        folder = write(tmp_path / name, {"b": "1", "a.j2": "2"})
        (folder / "b").chmod(mode)
        os.utime(folder / "b", (mode, mode))
        nodefiles.write(nodefiles.read([folder]), tmp_path / f"{name}.tar")
        archives.append((tmp_path / f"{name}.tar").read_bytes())
    assert archives[0] == archives[1]


def test_a_later_folder_replaces_what_an_earlier_one_has(tmp_path: Path) -> None:
    base = write(tmp_path / "base", {"etc/motd": "base", "etc/hosts.j2": "base"})
    own = write(tmp_path / "own", {"etc/motd": "own"})
    entries = {entry.path: entry.data for entry in nodefiles.read([base, own])}
    assert entries == {"etc/motd": b"own", "etc/hosts.j2": b"base"}


def test_no_folders_no_files(tmp_path: Path) -> None:
    assert nodefiles.read([]) == []
    assert nodefiles.load(version_in(tmp_path, None)) is None


def test_faults_are_named_by_their_files(tmp_path: Path) -> None:
    base = write(tmp_path / "base", {"etc/a.j2": "\n{{"})
    own = write(tmp_path / "own", {"b.j2": "{% x %}"})
    with pytest.raises(ImageError) as raised:
        nodefiles.read([base, own])
    first, second = str(raised.value).splitlines()
    assert first.startswith(f"{base}/etc/a.j2:2: ")
    assert second.startswith(f"{own}/b.j2:1: Encountered unknown tag 'x'")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match=r"pipe is neither file, folder nor link: take it away"):
        nodefiles.read([tmp_path])


def test_a_tree_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodefiles, "TREE_MAX_BYTES", 3)
    folder = write(tmp_path / "files", {"a": "12", "b": "34"})
    with pytest.raises(ImageError, match=r"^the files of each node are 4 bytes \(want 3 at most\)"):
        nodefiles.read([folder])


@pytest.mark.parametrize("damage", ["missing", "garbage", "folder", "template"])
def test_a_damaged_archive_is_an_error(tmp_path: Path, damage: str) -> None:
    file = tmp_path / nodefiles.FILE
    match damage:
        case "garbage":
            file.write_bytes(b"garbage" * 1000)
        case "folder":
            with tarfile.open(file, "w:") as archive:
                archive.addfile(replace_type(tarfile.TarInfo("x"), tarfile.DIRTYPE))
        case "template":
            nodefiles.write([cpio.file("a.j2", b"{{")], file)
    with pytest.raises(ImageError, match=rf"^{file} cannot be read: build the image again \("):
        nodefiles.load(version_in(tmp_path))


def replace_type(member: tarfile.TarInfo, kind: bytes) -> tarfile.TarInfo:
    member.type = kind
    return member


def test_another_version_has_other_files(tmp_path: Path) -> None:
    trees = []
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        nodefiles.write([cpio.file(name, b"")], folder / nodefiles.FILE)
        trees.append(nodefiles.load(version_in(folder)))
    assert [tree.plain[0].path for tree in trees if tree is not None] == ["one", "other"]
