"""A Debian archive of our own: two tiny packages, so that a build needs no network."""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

TOOLS = ("apt-get", "apt-cache", "dpkg-deb", "depmod")
RELEASE = "6.1.0-1-test"
APT_CONF = """\
Dir "{top}/apt";
Dir::State "{top}/apt/state";
Dir::State::status "{top}/apt/state/status";
Dir::Cache "{top}/apt/cache";
Dir::Etc "{top}/apt/etc";
Dir::Etc::main "none.conf";
Dir::Etc::parts "none.d";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "root";
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A package archive in a folder, and an apt that knows nothing else."""

    top: Path

    def add(self, name: str, files: Mapping[str, bytes], *, depends: str = "") -> None:
        """Put a package with these files into the archive; `update` makes it known."""
        tree = self.top / "trees" / name
        shutil.rmtree(tree, ignore_errors=True)
        for path, content in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(content)
            (tree / path).chmod(0o755 if "bin/" in path else 0o644)
        control = f"Package: {name}\nVersion: 1.0\nArchitecture: amd64\nMaintainer: t <t@t>\n"
        control += f"Depends: {depends}\n" if depends else ""
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(control + "Description: for a test\n")
        deb = self.top / "pool" / f"{name}_1.0_amd64.deb"
        build = ["dpkg-deb", "-Znone", "--root-owner-group", "-b", str(tree), str(deb)]
        subprocess.run(build, check=True, capture_output=True)
        sums = f"Filename: ./{deb.name}\nSize: {deb.stat().st_size}\n"
        sums += f"SHA256: {hashlib.sha256(deb.read_bytes()).hexdigest()}\n"
        (self.top / "pool" / f"{name}.record").write_text(control + sums + "Description: x\n")

    def update(self) -> None:
        """What `apt-get update` is for."""
        records = sorted((self.top / "pool").glob("*.record"))
        text = "\n".join(record.read_text() for record in records)
        (self.top / "pool/Packages").write_text(text)
        subprocess.run(["apt-get", "update"], check=True, capture_output=True)


@pytest.fixture
def empty_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An apt whose lists are empty."""
    missing = [tool for tool in TOOLS if not shutil.which(tool, path="/usr/bin:/usr/sbin:/sbin")]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    for folder in ("pool", "apt/state/lists/partial", "apt/cache/archives/partial", "apt/etc"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "apt/state/status").touch()
    (tmp_path / "apt/etc/sources.list").write_text(f"deb [trusted=yes] file:{tmp_path}/pool ./\n")
    (tmp_path / "apt.conf").write_text(APT_CONF.format(top=tmp_path))
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    return Archive(top=tmp_path)


@pytest.fixture
def archive(empty_archive: Archive) -> Archive:
    """An archive with a kernel, the package that follows it, and busybox."""
    modules = f"lib/modules/{RELEASE}"
    drivers = {
        "drivers/net/virtio_net.ko": module("alias=virtio:d00000001v*"),
        "drivers/net/other.ko": module("alias=pci:v00000001d*"),
        "fs/ext4/ext4.ko": module("softdep=pre: crc32c"),
        "crypto/crc32c_generic.ko": module("alias=crc32c"),
    }
    kernel = {
        f"boot/vmlinuz-{RELEASE}": b"the kernel",
        f"{modules}/modules.builtin": b"kernel/net/packet/af_packet.ko\n",
        f"{modules}/modules.builtin.modinfo": b"",
        f"{modules}/modules.order": b"",
        **{f"{modules}/kernel/{path}": content for path, content in drivers.items()},
    }
    empty_archive.add(f"linux-image-{RELEASE}", kernel, depends="kmod, linux-base (>= 4.3)")
    empty_archive.add("linux-image-test", {}, depends=f"linux-image-{RELEASE} (= 1.0)")
    empty_archive.add("busybox-static", {"bin/busybox": b"the busybox"})
    empty_archive.update()
    return empty_archive


def module(*info: str) -> bytes:
    """The least that depmod takes for a module: an ELF file with a .modinfo section."""
    names = b"\0.modinfo\0.shstrtab\0"
    modinfo = b"".join(line.encode() + b"\0" for line in info)
    sections_at = 64 + len(modinfo) + len(names)
    header = b"\x7fELF\2\1\1" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, sections_at, 0, 64, 0, 0, 64, 3, 2)
    null = bytes(64)
    table = null
    for name_at, kind, offset, size in (
        (1, 1, 64, len(modinfo)),
        (10, 3, 64 + len(modinfo), len(names)),
    ):
        table += struct.pack("<IIQQQQIIQQ", name_at, kind, 0, 0, offset, size, 0, 0, 1, 0)
    return header + modinfo + names + table
