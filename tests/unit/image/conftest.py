"""A Debian archive of our own: two tiny packages, so that a build needs no network."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

TOOLS = ("apt-get", "apt-cache", "dpkg-deb", "depmod")
RELEASE = "6.1.0-1-test"
STUB = "linuxx64.efi.stub"
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

    def add(
        self,
        name: str,
        files: Mapping[str, bytes],
        *,
        depends: str = "",
        architecture: str = "amd64",
    ) -> None:
        """Put a package with these files into the archive; `update` makes it known."""
        tree = self.top / "trees" / name
        shutil.rmtree(tree, ignore_errors=True)
        for path, content in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(content)
            (tree / path).chmod(0o755 if "bin/" in path else 0o644)
        control = f"Package: {name}\nVersion: 1.0\nArchitecture: {architecture}\n"
        control += "Maintainer: t <t@t>\n"
        control += f"Depends: {depends}\n" if depends else ""
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(control + "Description: for a test\n")
        deb = self.top / "pool" / f"{name}_1.0_{architecture}.deb"
        build = ["dpkg-deb", "-Znone", "--root-owner-group", "-b", str(tree), str(deb)]
        subprocess.run(build, check=True, capture_output=True)
        sums = f"Filename: ./{deb.name}\nSize: {deb.stat().st_size}\n"
        sums += f"SHA256: {hashlib.sha256(deb.read_bytes()).hexdigest()}\n"
        (self.top / "pool" / f"{deb.stem}.record").write_text(control + sums + "Description: x\n")

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
def archive(empty_archive: Archive, stub: Callable[..., bytes]) -> Archive:
    """An archive with a kernel, the package that follows it, busybox and a UEFI stub."""
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
    empty_archive.add("systemd-boot-efi", {f"usr/lib/systemd/boot/efi/{STUB}": stub()})
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


ROOT_MODULES = {
    "drivers/net/virtio_net.ko": b"alias=virtio:d00000001v*",
    "drivers/block/loop.ko": b"alias=block-major-7-*",
    "fs/erofs/erofs.ko": b"alias=fs-erofs",
    "fs/overlayfs/overlay.ko": b"alias=fs-overlay",
    "fs/squashfs/squashfs.ko": b"alias=fs-squashfs",
}
PACKAGE_TIME = 1_000_000_000
"""When the youngest package of the small root file system was made."""
LDD = """\
#!/bin/sh
echo "	linux-vdso.so.1 (0x00007ffc)"
echo "	libz.so.1 => /lib/libz.so.1 (0x00007f00)"
echo "	/lib64/ld.so (0x00007f01)"
"""
STATUS = """\
Package: base
Status: install ok installed
Version: 1.0

Package: removed
Status: deinstall ok config-files
Version: 2.0

Package: linux-image-test
Status: install ok installed
Version: 6.1.0-1
Description: a kernel: of a test
"""


def x86_kernel(release: str) -> bytes:
    """The head of an x86 kernel that says it is `release`."""
    head = bytearray(0x400)
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x20E, 0x100)
    text = f"{release} (builder@example) #1 SMP".encode()
    head[0x300 : 0x300 + len(text)] = text
    return bytes(head)


@pytest.fixture
def small_root(tmp_path: Path) -> Path:
    """A root file system with a shell, a kernel and some modules, as small as can be."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("needs busybox")
    root = tmp_path / "small-root"
    for folder in ("bin", "boot", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/bin"):
        (root / folder).mkdir(parents=True)
    (root / "root").chmod(0o700)
    (root / "tmp").chmod(0o1777)
    shutil.copy(busybox, root / "bin/busybox")
    for name in ("sh", "cat", "echo", "id", "mkdir", "cp", "rm", "readlink", "sleep", "touch"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "usr/bin/ldd").write_text(LDD)
    (root / "usr/bin/ldd").chmod(0o755)
    files = {
        "usr/bin/zstd": b"zstd",
        "lib/libz-1.2.so": b"libz",
        "lib64/ld.so": b"the loader",
        "etc/hostname": b"this-machine\n",
        "etc/resolv.conf": b"nameserver 192.0.2.1\n",
        "var/lib/dpkg/status": STATUS.encode(),
        "var/lib/dpkg/info/base.md5sums": b"",
        f"boot/vmlinuz-{RELEASE}": x86_kernel(RELEASE),
        f"boot/initrd.img-{RELEASE}": b"a ramdisk of no use",
        f"boot/config-{RELEASE}": b"CONFIG_RD_ZSTD=y\nCONFIG_SQUASHFS_ZSTD=y\n",
        "name with blanks/\u00fcmlaut": b"text",
    }
    modules = f"lib/modules/{RELEASE}"
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        files[f"{modules}/{name}"] = b""
    for path, info in ROOT_MODULES.items():
        files[f"{modules}/kernel/{path}"] = module(info.decode())
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    (root / "lib/libz.so.1").symlink_to("/lib/libz-1.2.so")
    (root / "vmlinuz").symlink_to(f"boot/vmlinuz-{RELEASE}")
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    subprocess.run(["depmod", "-b", str(root), RELEASE], check=True, env={"PATH": path})
    for file in root.rglob("*"):
        os.utime(file, (PACKAGE_TIME, PACKAGE_TIME), follow_symlinks=False)
    return root


@pytest.fixture
def mmdebstrap(
    archive: Archive, small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An mmdebstrap that installs `small_root`; returns the file that holds its arguments."""
    log = tmp_path / "mmdebstrap.log"
    log.touch()
    script = tmp_path / "bin" / "mmdebstrap"
    script.parent.mkdir()
    # $target is what comes after the release; the last is the mirror if there is one.
    script.write_text(
        f"""#!/bin/sh
echo "SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH $@" >>{log}
for word; do [ "$release" ] && target=$word && break; [ "$word" = bookworm ] && release=1; done
cp -a {small_root} "$target"
"""
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    return log
