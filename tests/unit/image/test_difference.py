"""What changed in an overlay, and that it gives the same tree when it is put into another root."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from bootnode.errors import ImageError
from bootnode.image.difference import Difference, apply, compare, store

CAPABILITY = b"\1\0\0\2\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
"""cap_net_raw, as it is on ping."""
DROP_CAPABILITY = f"{sys.executable} -c 'import os, sys; os.removexattr(sys.argv[1], sys.argv[2])'"
SET_CAPABILITY = f'{sys.executable} -c "import os, sys; os.setxattr(sys.argv[1], sys.argv[2], '
SET_CAPABILITY += f'{CAPABILITY!r})"'.replace("\\", "\\\\")
MOUNT = """\
set -eu
cd "$1"
mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work,redirect_dir=off,index=off o root
cd root
eval "$2"
cd ..
cp -a root seen
"""


@pytest.fixture
def log(tmp_path: Path) -> Iterator[IO[bytes]]:
    with (tmp_path / "build.log").open("wb") as file:
        yield file


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with `lower`, a root file system, and what an overlay needs."""
    for folder in ("upper", "work", "root", "lower"):
        (tmp_path / folder).mkdir()
    lower = tmp_path / "lower"
    for name in ("etc/motd", "etc/issue", "opt/tool/bin/run", "opt/tool/doc/a", "opt/tool/doc/b"):
        (lower / name).parent.mkdir(parents=True, exist_ok=True)
        (lower / name).write_text(name)
    (lower / "usr/lib").mkdir(parents=True)
    (lower / "usr/lib/ping").write_text("ping")
    os.setxattr(lower / "usr/lib/ping", "security.capability", CAPABILITY)
    (lower / "usr/lib/ping2").hardlink_to(lower / "usr/lib/ping")
    (lower / "lib").symlink_to("usr/lib")
    return tmp_path


def changed(place: Path, script: str) -> Difference:
    """Change the root by a script; `seen` is what it looked like then."""
    words = ["unshare", "--mount", "sh", "-c", MOUNT, "sh", str(place), script]
    subprocess.run(words, check=True, timeout=60)
    return compare(place / "upper", [place / "lower"])


def described(root: Path) -> dict[str, Any]:
    """All that a tree is, times and sizes of folders apart."""
    found: dict[str, Any] = {}
    first: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        name = str(path.relative_to(root))
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
            if not name.startswith("trusted.overlay.")
        }
        content: Any = None
        if stat.S_ISREG(status.st_mode):
            content = (path.read_bytes(), int(status.st_mtime))
        elif stat.S_ISLNK(status.st_mode):
            content = path.readlink()
        elif not stat.S_ISDIR(status.st_mode):
            content = status.st_rdev
        is_shared = status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode)
        same_as = first.setdefault(status.st_ino, name) if is_shared else None
        owner = (status.st_mode, status.st_uid, status.st_gid)
        found[name] = (owner, content, attributes, same_as)
    return found


CASES = {
    "nothing": (":", ""),
    "read, touched, written as it was": (
        "cat etc/motd >/dev/null; touch etc/motd; printf etc/issue >etc/issue; chmod 755 opt",
        "",
    ),
    "a new file": ("echo x >etc/new", "A etc/new"),
    "a new folder": ("mkdir -p srv/a; echo x >srv/a/b", "A srv, A srv/a, A srv/a/b"),
    "a changed file": ("echo x >etc/motd", "M etc/motd"),
    "a replaced file": ("echo x >new; mv new etc/motd", "M etc/motd"),
    "a removed file": ("rm etc/motd", "D etc/motd"),
    "a removed folder": ("rm -r opt/tool", "D opt/tool"),
    "made and removed": ("echo x >etc/new; rm etc/new; mkdir d; rmdir d", ""),
    "removed and made again": ("rm etc/motd; echo x >etc/motd", "M etc/motd"),
    "an emptied folder": (
        "rm -r opt/tool; mkdir opt/tool",
        "D opt/tool/bin, D opt/tool/doc",
    ),
    "a folder made anew": (
        "rm -r opt/tool; mkdir -p opt/tool/doc; echo x >opt/tool/new; echo y >opt/tool/doc/b",
        "D opt/tool/bin, D opt/tool/doc/a, M opt/tool/doc/b, A opt/tool/new",
    ),
    "a folder that becomes a file": ("rm -r opt/tool; echo x >opt/tool", "M opt/tool"),
    "a file that becomes a folder": (
        "rm etc/motd; mkdir etc/motd; echo x >etc/motd/today",
        "M etc/motd, A etc/motd/today",
    ),
    "a folder that becomes a link": (
        "mv opt/tool srv; ln -s ../srv opt/tool",
        "M opt/tool, A srv, A srv/bin, A srv/bin/run, A srv/doc, A srv/doc/a, A srv/doc/b",
    ),
    "a link that leads elsewhere": ("ln -sfn etc lib", "M lib"),
    "a link that is a folder now": ("rm lib; mkdir lib; echo x >lib/y", "M lib, A lib/y"),
    "through a link": ("echo x >lib/y", "A usr/lib/y"),
    "new links": (
        "ln -s motd etc/link; echo x >etc/one; ln etc/one etc/two",
        "A etc/link, A etc/one, A etc/two",
    ),
    "permissions": ("chmod 4755 etc/motd; chmod 1777 opt", "M etc/motd, M opt"),
    "an owner": ("chown 7:8 etc/motd; chown -h 9 lib", "M etc/motd, M lib"),
    "devices": ("mknod opt/null c 1 3; mknod opt/pipe p", "A opt/null, A opt/pipe"),
    "attributes": (
        f"{SET_CAPABILITY} etc/motd security.capability; {SET_CAPABILITY} opt/tool user.note",
        "M etc/motd, M opt/tool",
    ),
    "attributes of a new file": (
        f"echo x >new; chown 5 new; chmod 4711 new; {SET_CAPABILITY} new security.capability",
        "A new",
    ),
    "attributes that go": (
        f"rm usr/lib/ping2; {DROP_CAPABILITY} usr/lib/ping security.capability",
        "M usr/lib/ping, D usr/lib/ping2",
    ),
    "strange names": (
        "echo x >'a b\n$c'; echo x >--help; echo x >\"$(printf '\\377')\"",
        "A --help, A a b\n$c, A \udcff",
    ),
}


@pytest.mark.root
@pytest.mark.parametrize(("script", "letters"), CASES.values(), ids=CASES.keys())
def test_a_change_is_found_and_gives_the_same_tree(
    place: Path, log: IO[bytes], script: str, letters: str
) -> None:
    difference = changed(place, script)
    assert ", ".join(" ".join(pair) for pair in difference.letters()) == letters
    store(difference, place / "upper", place / "files.tar", log=log)
    subprocess.run(["cp", "-a", str(place / "lower"), str(place / "other")], check=True)
    apply(difference, place / "files.tar", place / "other", log=log)
    after, seen = described(place / "other"), described(place / "seen")
    if script == CASES["read, touched, written as it was"][0]:
        for name in ("etc/motd", "etc/issue"):  # their times are no change
            assert after.pop(name)[1][0] == seen.pop(name)[1][0]
    assert after == seen


@pytest.mark.root
def test_what_belongs_to_the_machine_is_left_out(place: Path) -> None:
    (place / "lower/var/lib/apt/lists").mkdir(parents=True)
    (place / "lower/var/lib/apt/lists/old").touch()
    script = """\
rm -r var/lib/apt/lists; mkdir -p var/lib/apt/lists var/cache/apt/archives
touch var/lib/apt/lists/new var/cache/apt/archives/x.deb etc/machine-id etc/resolv.conf
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("etc/socket")'
mkdir root; touch root/.bash_history root/.profile
echo x >var/cache/new
"""
    assert changed(place, script).letters() == [
        *(("A", "root"), ("A", "root/.profile")),
        *(("A", "var/cache"), ("A", "var/cache/new")),
    ]


@pytest.mark.root
def test_the_upper_one_of_two_trees_counts(place: Path) -> None:
    (place / "below/etc").mkdir(parents=True)
    (place / "below/boot").mkdir()
    for name in ("etc/motd", "etc/other", "boot/vmlinuz"):
        (place / "below" / name).write_text("below")
    (place / "upper/etc").mkdir()
    (place / "upper/etc/motd").write_text("below")
    for name in ("boot", "etc/other", "etc/never-there"):
        os.mknod(place / "upper" / name, stat.S_IFCHR, 0)
    difference = compare(place / "upper", [place / "lower", place / "below"])
    assert difference.letters() == [("D", "boot"), ("M", "etc/motd"), ("D", "etc/other")]


@pytest.mark.root
def test_a_change_goes_into_a_root_that_has_changed(place: Path, log: IO[bytes]) -> None:
    script = "rm -r opt/tool; rm etc/issue; mkdir srv; echo x >srv/x; rm etc/motd; mkdir etc/motd"
    difference = changed(place, script)
    store(difference, place / "upper", place / "files.tar", log=log)
    root = place / "lower"
    (root / "etc/issue").unlink()  # gone already
    (root / "srv").write_text("a file where a folder comes")
    (root / "opt/tool/new").write_text("removed with its folder")
    apply(difference, place / "files.tar", root, log=log)
    assert (root / "srv/x").read_text() == "x\n"
    assert (root / "etc/motd").is_dir()
    assert not (root / "opt/tool").exists()


@pytest.mark.root
@pytest.mark.parametrize("script", ["echo x >opt/tool/x", "rm opt/tool/doc/a"])
def test_a_change_never_leads_out_of_the_root(place: Path, log: IO[bytes], script: str) -> None:
    difference = changed(place, script)
    store(difference, place / "upper", place / "files.tar", log=log)
    outside = place / "outside"
    shutil.move(place / "lower/opt/tool", outside)
    (place / "lower/opt/tool").symlink_to(outside)
    before = described(outside)
    with pytest.raises(ImageError, match="cannot be changed: /opt/tool is no folder now"):
        apply(difference, place / "files.tar", place / "lower", log=log)
    assert described(outside) == before
