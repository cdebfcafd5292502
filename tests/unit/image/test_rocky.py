"""Rocky by dnf: what it is asked for, what its words mean, and what is left of a build.

A small root stands for what dnf installs; tests/lab/test_rocky.py has real packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from bootnode.errors import ImageError
from bootnode.image import rocky
from bootnode.image.keys import Fetch, RootFormat
from bootnode.image.rootfs import Installed
from bootnode.image.spec import Repository, System
from bootnode.image.store import hash_tree

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not shutil.which("rpm"), reason="needs rpm"),
]

SYSTEM = System(
    distribution="rocky",
    release="8.10",
    mirror=None,
    repositories=(
        Repository(
            name="base", url="https://mirror.example/$releasever", key="https://m.example/key"
        ),
        Repository(name="own", url="file:///srv/rpms", key=None),
    ),
    packages=(),
    overlays=(),
    scripts=(),
    format=RootFormat.SQUASHFS,
    fetch=Fetch.INIT,
)
# What dnf leaves behind besides the packages.
FAKE_DNF = """\
#!/bin/sh
set -e
echo "$@" >{told}/arguments
cat "$HOME/.rpmmacros" >{told}/macros
cp ../dnf-*/dnf.conf ../dnf-*/repos/* {told}
ls -l dev/null etc/kernel/install.d >{told}/inside
for name in bin boot etc lib lib64 root usr var; do cp -a {small_root}/$name .; done
mkdir -p var/lib/rpm
rm lib/modules/*/modules.dep
mkdir -p boot/loader/entries var/cache/dnf/base var/log var/lib/dnf
touch var/lib/rpm/rpmdb.sqlite-shm
touch var/log/dnf.log var/log/hawkey.log var/lib/dnf/history.sqlite boot/loader/entries/x.conf
echo 0123456789abcdef >etc/machine-id
"""


@pytest.fixture
def log(tmp_path: Path) -> Iterator[IO[bytes]]:
    with (tmp_path / "build.log").open("wb") as file:
        yield file


@pytest.fixture
def dnf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program to be written, which is run instead of dnf."""
    script = tmp_path / "bin" / "dnf"
    script.parent.mkdir()
    script.touch()
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    return script


@pytest.fixture
def told(dnf: Path, small_root: Path, tmp_path: Path) -> Path:
    """A folder with what dnf was told, once it has installed the small root."""
    told = tmp_path / "told"
    told.mkdir()
    dnf.write_text(FAKE_DNF.format(told=told, small_root=small_root))
    return told


def bootstrap(folder: Path, log: IO[bytes], system: System = SYSTEM) -> Path:
    output = folder / "out with blanks"
    output.mkdir(exist_ok=True)
    try:
        rocky.bootstrap(system, ("kernel-core", "systemd"), output / "root", log=log)
    finally:
        assert [path.name for path in output.iterdir()] == ["root"]
    return output / "root"


def test_dnf_knows_what_the_recipe_says_and_nothing_else(
    told: Path, tmp_path: Path, log: IO[bytes]
) -> None:
    root = bootstrap(tmp_path, log)
    arguments = (told / "arguments").read_text().strip()
    assert arguments.endswith(f"--installroot={root} --releasever=8.10 install kernel-core systemd")
    config = (told / "dnf.conf").read_text()
    for line in ("module_platform_id=platform:el8", "plugins=False", "install_weak_deps=False"):
        assert f"\n{line}\n" in config
    assert (told / "base.repo").read_text() == (
        "[base]\nname=base\nbaseurl=https://mirror.example/$releasever\n"
        "gpgcheck=1\ngpgkey=https://m.example/key\n"
    )
    assert (told / "own.repo").read_text() == (
        "[own]\nname=own\nbaseurl=file:///srv/rpms\ngpgcheck=0\ngpgkey=\n"
    )
    assert "%_dbpath /var/lib/rpm\n" in (told / "macros").read_text()
    inside = (told / "inside").read_text()
    assert "50-dracut.install -> /dev/null" in inside
    assert "crw" in inside


def test_a_key_beside_the_recipe_is_named_by_its_path(
    told: Path, tmp_path: Path, log: IO[bytes]
) -> None:
    key = tmp_path / "my keys" / "key"
    system = replace(SYSTEM, repositories=(replace(SYSTEM.repositories[0], key=key),))
    bootstrap(tmp_path, log, system)
    assert (
        f"gpgcheck=1\ngpgkey=file://{tmp_path}/my%20keys/key\n" in (told / "base.repo").read_text()
    )


def test_nothing_says_where_it_was_built(told: Path, tmp_path: Path, log: IO[bytes]) -> None:
    root = bootstrap(tmp_path, log)
    names = {str(path.relative_to(root)) for path in root.rglob("*")}
    assert not {"boot/loader", "var/log/dnf.log", "var/log/hawkey.log", "etc/hostname"} & names
    assert not {name for name in names if "cache/dnf" in name or name.endswith(".install")}
    assert not list((root / "var/lib/rpm").iterdir())
    assert not list((root / "var/lib/dnf").iterdir())
    assert (root / "etc/machine-id").read_bytes() == b""
    for name in ("dev", "run", "tmp"):
        assert list((root / name).iterdir()) == []
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777


SPEC = """\
Name: {name}
Version: 1
Release: 1
Summary: for a test
License: MIT
BuildArch: noarch
%description
For a test.
%install
mkdir -p %{{buildroot}}/usr/share
echo {name} >%{{buildroot}}/usr/share/{name}
%files
/usr/share/{name}
"""


def test_the_same_packages_give_the_same_files(tmp_path: Path, log: IO[bytes]) -> None:
    """The real dnf, with packages of our own."""
    for tool in ("dnf", "rpm", "rpmbuild", "createrepo_c"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    names = ("kernel-core", "systemd")
    for name in names:
        spec = tmp_path / f"{name}.spec"
        spec.write_text(SPEC.format(name=name))
        command = ["rpmbuild", "-bb", "--define", f"_topdir {tmp_path}/rpm", str(spec)]
        subprocess.run(command, check=True, capture_output=True)
    repository = tmp_path / "rpm/RPMS/noarch"
    subprocess.run(["createrepo_c", str(repository)], check=True, capture_output=True)
    own = Repository(name="own", url=repository.as_uri(), key=None)
    roots = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        roots.append(bootstrap(tmp_path / folder, log, replace(SYSTEM, repositories=(own,))))
    assert set(rocky.installed(roots[0], log).packages) == {*names}
    assert hash_tree(roots[0]) == hash_tree(roots[1])


def test_modules_are_indexed_whatever_the_package_did(
    told: Path, tmp_path: Path, log: IO[bytes]
) -> None:
    root = bootstrap(tmp_path, log)
    (index,) = (root / "lib/modules").glob("*/modules.dep")
    assert "squashfs.ko" in index.read_text()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "No match for argument: cutl\nNo match for argument: X-y",
            r"^no repository of the recipe has a package cutl, X-y: correct the recipe$",
        ),
        (
            "Error: \n Problem: conflicting requests\n  - nothing provides sh needed by x-1.el8",
            r"^x-1\.el8 needs sh, which no repository of the recipe has$",
        ),
        (
            "Package base-1.x86_64.rpm is not signed\nError: GPG check FAILED",
            r"^the package base-1\.x86_64 is not signed, but its repository has a `key`$",
        ),
        (
            "Public key for base-1.x86_64.rpm is not installed. Failing package is: base",
            r"^the package base-1\.x86_64 is signed by another key than its repository's: co",
        ),
        (
            (
                "  - Curl error (6): Couldn't resolve host name for http://m.example/repomd.xml"
                " [Could not resolve host: m.example]\n"
                "Error: Failed to download metadata for repo 'base': Cannot download repomd.xml"
            ),
            r"^cannot fetch http://m\.example/repomd\.xml of the repository 'base': Could not res",
        ),
        (
            "Curl error (28): Timeout was reached for https://m.example/key []",
            r"^cannot fetch https://m\.example/key: Timeout was reached \(check this machine's",
        ),
        (
            "Error: Transaction test error:\n  At least 12MB more space needed on the / fi.",
            r"^no space left on device while installing Rocky 8\.10$",
        ),
        (
            "error: sqlite failure: PRAGMA wal_checkpoint = TRUNCATE: database or disk is full",
            r"^no space left on device while installing Rocky 8\.10$",
        ),
        ("Error: something else", r"^`dnf` failed with exit status 1:\n    Error: something else$"),
    ],
)
def test_what_dnf_says_is_explained(
    dnf: Path, tmp_path: Path, log: IO[bytes], said: str, message: str
) -> None:
    dnf.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\nexit 1\n")
    with pytest.raises(ImageError, match=message):
        bootstrap(tmp_path, log)


def test_packages_that_the_image_does_not_know_of_are_found(
    told: Path, small_root: Path, tmp_path: Path, log: IO[bytes]
) -> None:
    rpm = small_root / "usr/bin/rpm"
    rpm.write_text('#!/bin/sh\n[ "$1" = --rebuilddb ] || echo lost-1-1.x86_64\n')
    rpm.chmod(0o755)
    with pytest.raises(ImageError, match="rpm does not know the packages that dnf installed"):
        bootstrap(tmp_path, log)


def test_of_two_databases_the_own_one_stays(
    told: Path, small_root: Path, tmp_path: Path, log: IO[bytes]
) -> None:
    rpm = small_root / "usr/bin/rpm"
    rpm.write_text('#!/bin/sh\n[ "$1" != --rebuilddb ] || echo bdb >/var/lib/rpm/Packages\n')
    rpm.chmod(0o755)
    database = small_root / "var/lib/rpm"
    database.mkdir()
    subprocess.run(["rpm", "--dbpath", database, "--initdb"], check=True, env={"HOME": "/"})
    assert (database / "rpmdb.sqlite").exists()
    root = bootstrap(tmp_path, log)
    left = {path.name for path in (root / "var/lib/rpm").iterdir()}
    assert left - {".rpm.lock"} == {"Packages"}


def test_a_root_without_packages(tmp_path: Path, log: IO[bytes]) -> None:
    (tmp_path / "var/lib/rpm").mkdir(parents=True)
    assert rocky.installed(tmp_path, log) == Installed(packages={}, newest=0)
    assert list((tmp_path / "var/lib/rpm").iterdir()) == []
