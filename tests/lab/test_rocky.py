"""Rocky from a repository made here: built by dnf, booted by qemu.

The packages are signed as Rocky's are, and laid out as Rocky 8's are: the kernel and its
configuration beside its modules, those compressed by xz, and no modules.builtin.modinfo. The kernel
is Debian's, with a configuration that says it knows no zstd, as Rocky 8's does not. The root's own
rpm is Debian's, so it writes the database anew in the form that it had: Rocky 8's writes another.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootnode.errors import ImageError
from bootnode.image.build import build_image
from bootnode.image.kernel import depmod
from bootnode.image.modules import ModuleIndex
from bootnode.image.packages import Packages
from bootnode.image.spec import load_recipe, recipes_folder
from bootnode.image.store import ImageStore, ImageVersion

TOOLS = ("createrepo_c", "dnf", "gpg", "gpg-agent", "qemu-system-x86_64", "rpmbuild", "rpmsign")
MISSING = [tool for tool in TOOLS if not shutil.which(tool)]
pytestmark = [
    pytest.mark.lab,
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]

MAC = "52:54:00:ab:cd:03"
TOOL_TIMEOUT_S = 120.0
BOOT_TIMEOUT_S = 120.0
MODULES = ("virtio_net", "virtio_pci", "loop", "overlay", "squashfs")
SPEC = """\
Name: {name}
Version: 1
Release: 2.el8
Summary: for a test
License: MIT
AutoReqProv: no
{needs}
%description
For a test.
%install
cp -a {tree}/. %{{buildroot}}/
{script}
%files
{files}
"""
RPM_MACROS = """\
%_topdir {folder}/rpmbuild
%_rpmdir {folder}/packages
%_dbpath {folder}/rpmdb
%_build_id_links none
%__os_install_post %{{nil}}
%__gpg /usr/bin/gpg
"""
OS_RELEASE = b'ID="rocky"\nVERSION_ID="8.10"\n'
# Where Rocky's kernel-install would have dracut make a ramdisk, and for the rescue.
KERNEL_SCRIPT = """\
%posttrans
/usr/bin/busybox cp /lib/modules/{release}/vmlinuz /boot/vmlinuz-{release}
/usr/bin/busybox cp /lib/modules/{release}/vmlinuz /boot/vmlinuz-0-rescue-0123456789abcdef
for plugin in 50-dracut 51-dracut-rescue; do
    [ -x /etc/kernel/install.d/$plugin.install ] ||
        [ ! -e /etc/kernel/install.d/$plugin.install ] || echo "$plugin is masked" >>/etc/said
done
echo ramdisk >/boot/initramfs-{release}.img
"""
INIT = b"""#!/usr/bin/busybox sh
say() { echo "ROOT: $*"; }
export PATH=/usr/bin:/applets HOME=/root
/usr/bin/busybox mkdir /applets
/usr/bin/busybox --install -s /applets
. /etc/os-release
say id $ID $VERSION_ID
say mount $(awk '$2 == "/"' /proc/mounts)
say said $(cat /etc/said)
say packages $(/usr/bin/rpm --query --all --queryformat '%{NAME} ')
say machine-id $(stat -c %s /etc/machine-id)
say boot $(ls /boot)
say connection $(stat -c %a /run/NetworkManager/system-connections/bootnode.nmconnection) \
    $(grep mac-address= /run/NetworkManager/system-connections/*)
say device $(cat /run/NetworkManager/devices/$(cat /sys/class/net/eth0/ifindex))
say done
poweroff -f
"""
LDD = b"""#!/bin/sh
exec /lib64/ld-linux-x86-64.so.2 --list "$1"
"""
RECIPE = """\
description: a small Rocky
distribution: rocky
release: "8"
repositories:
  - {{name: base, url: "file://{packages}", key: rocky.asc}}
packages: {names}
root: {{format: {root_format}, fetch: ramdisk}}
kernel:
  package: kernel-core
  modules: [virtio_net, virtio_pci]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forge:
    """Makes packages, signs them, and knows the repository that they are in."""

    folder: Path

    @property
    def packages(self) -> Path:
        """The repository."""
        return self.folder / "packages"

    def run(self, *command: str | Path) -> None:
        """Run a tool that reads our settings and none of this machine's."""
        environment = {**os.environ, "HOME": str(self.folder), "GNUPGHOME": str(self.keys)}
        done = subprocess.run(
            [*map(str, command)],
            check=False,
            capture_output=True,
            text=True,
            env=environment,
            timeout=TOOL_TIMEOUT_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def keys(self) -> Path:
        """Where gpg keeps its keys."""
        return self.folder / "gpg"

    def make_key(self, name: str) -> Path:
        """A new key, and its public part as a file."""
        make = ("--passphrase", "", "--quick-gen-key", f"{name} <{name}@example.org>", "rsa2048")
        self.run("gpg", "--batch", *make, "sign", "never")
        file = self.folder / f"{name}.asc"
        self.run("gpg", "--batch", "--armor", "--output", file, "--export", name)
        return file

    def add(
        self,
        name: str,
        files: Mapping[str, bytes | str],
        *,
        folders: Sequence[str] = (),
        needs: str = "Requires: filesystem busybox",
        script: str = "",
    ) -> None:
        """Make a package of `files`; text is where a link leads, programs are in some bin."""
        tree = self.folder / "trees" / name
        for path in folders:
            (tree / path).mkdir(parents=True)
        for path, content in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                (tree / path).symlink_to(content)
            else:
                (tree / path).write_bytes(content)
                (tree / path).chmod(0o755 if "bin/" in path or "ld-linux" in path else 0o644)
        listed = [*(f"%dir /{path}" for path in folders), *(f"/{path}" for path in files)]
        spec = self.folder / f"{name}.spec"
        spec.write_text(
            SPEC.format(name=name, needs=needs, tree=tree, script=script, files="\n".join(listed))
        )
        self.run("rpmbuild", "-bb", "--quiet", "--target", "x86_64", spec)

    def publish(self, folder: Path, key: str | None = "rocky") -> None:
        """Sign all packages in `folder` and write what dnf reads first."""
        files = sorted(folder.rglob("*.rpm"))
        self.run("rpmsign", "--delsign", *files)
        if key is not None:
            self.run("rpmsign", "--addsign", "--define", f"_gpg_name {key}", *files)
        self.run("createrepo_c", "--quiet", folder)

    def copy(self, name: str, key: str | None) -> Path:
        """The same repository with its packages signed by another key, or by none."""
        folder = self.folder / name
        if not folder.exists():
            shutil.copytree(self.packages, folder)
            self.publish(folder, key)
        return folder


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    forge = Forge(folder=tmp_path_factory.mktemp("forge"))
    forge.keys.mkdir(mode=0o700)
    (forge.folder / ".rpmmacros").write_text(RPM_MACROS.format(folder=forge.folder))
    try:
        for name in ("rocky", "stranger"):
            forge.make_key(name)
        _add_packages(forge)
        forge.publish(forge.packages)
        yield forge
    finally:
        forge.run("gpgconf", "--kill", "gpg-agent")


def _add_packages(forge: Forge) -> None:
    links: dict[str, bytes | str] = {
        name: f"usr/{name}" for name in ("bin", "lib", "lib64", "sbin")
    }
    folders = ["boot", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var/lib"]
    folders += ["usr/bin", "usr/lib", "usr/lib64", "usr/sbin"]
    forge.add("filesystem", links, folders=folders, needs="")
    busybox: dict[str, bytes | str] = {
        "usr/bin/busybox": Path("/bin/busybox").read_bytes(),
        "usr/bin/sh": "busybox",
    }
    forge.add("busybox", busybox, needs="Requires: filesystem\nProvides: /bin/sh")
    small = {"etc/os-release": OS_RELEASE, "usr/sbin/init": INIT, "usr/sbin/NetworkManager": b""}
    forge.add("Tiny_system", small)
    release, files = _kernel(forge.folder)
    forge.add("kernel-core", files, script=KERNEL_SCRIPT.format(release=release))
    forge.add("rpm", _rpm())
    zstd = _with_libraries("/usr/bin/zstd")
    forge.add("zstd", {**zstd, "usr/bin/ldd": LDD})
    slow = "%post\necho started >/started\n/usr/bin/busybox sleep 1000\n"
    forge.add("slow", {"etc/slow": b""}, script=slow)
    forge.add("broken", {"etc/broken": b""}, needs="Requires: nowhere")


def _kernel(folder: Path) -> tuple[str, dict[str, bytes | str]]:
    """Debian's kernel as a package of Rocky has it, with the few modules that are of use here."""
    top = folder / "debian"
    with (folder / "kernel.log").open("wb") as log:
        packages = Packages(cache=folder, log=log)
        packages.unpack(packages.fetch_kernel("linux-image-cloud-amd64"), top)
        (kernel,) = (top / "boot").glob("vmlinuz-*")
        release = kernel.name.removeprefix("vmlinuz-")
        depmod(top, release, log=log)
    modules = top / "lib/modules" / release
    index = ModuleIndex.parse(
        dep=(modules / "modules.dep").read_text(),
        alias=(modules / "modules.alias").read_text(),
        softdep=(modules / "modules.softdep").read_text(),
        builtin=(modules / "modules.builtin").read_text(),
    )
    at = f"lib/modules/{release}"
    config = (top / f"boot/config-{release}").read_text()
    files: dict[str, bytes | str] = {
        f"{at}/vmlinuz": kernel.read_bytes(),
        f"{at}/config": re.sub("CONFIG_(SQUASHFS|RD)_ZSTD=y\n", "", config).encode(),
        f"{at}/modules.builtin": (modules / "modules.builtin").read_bytes(),
        f"{at}/modules.order": (modules / "modules.order").read_bytes(),
    }
    for path in index.select(MODULES):
        # As Rocky does: with the check that xz has by itself, which busybox does not know.
        done = subprocess.run(["xz", "-c", modules / path], check=True, capture_output=True)
        files[f"{at}/{path}.xz"] = done.stdout
    return release, files


def _rpm() -> dict[str, bytes | str]:
    macros = Path("/usr/lib/rpm/macros").read_text()
    macros = re.sub(r"^%_dbpath\s.*", "%_dbpath /var/lib/rpm", macros, flags=re.M)
    files = _with_libraries("/usr/bin/rpm") | _with_libraries("/usr/bin/rpmdb")
    for file in (Path("/usr/lib/rpm/rpmrc"), *Path("/usr/lib/rpm").glob("rpmpopt-*")):
        files[str(file)[1:]] = file.read_bytes()
    return {**files, "usr/lib/rpm/macros": macros.encode()}


def _with_libraries(program: str) -> dict[str, bytes | str]:
    """A program of this machine with the libraries it needs, where a merged /usr has them."""
    said = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    libraries = re.findall(r"(/\S+) \(0x", said)
    places = {f"usr/{path.removeprefix('/usr').lstrip('/')}" for path in libraries}
    files: dict[str, bytes | str] = {place: Path(f"/{place}").read_bytes() for place in places}
    return {**files, program[1:]: Path(program).read_bytes()}


class Workshop:
    """A recipe and what is built from it."""

    def __init__(self, folder: Path, forge: Forge) -> None:
        self.recipe = folder / "recipes" / "tiny"
        self.recipe.mkdir(parents=True)
        (self.recipe.parent / "init").symlink_to(recipes_folder() / "init")
        shutil.copy(forge.folder / "rocky.asc", self.recipe)
        self.forge = forge
        self.store = ImageStore(folder / "state/images")
        self.cache = folder / "state/cache"
        self.write()

    def write(
        self,
        *names: str,
        root_format: str = "squashfs",
        repository: Path | None = None,
    ) -> None:
        """Write the recipe; the packages are those that boot if none are named."""
        wanted = ", ".join(names or ("Tiny_system", "rpm"))
        text = RECIPE.format(
            packages=repository or self.forge.packages, names=f"[{wanted}]", root_format=root_format
        )
        (self.recipe / "image.yaml").write_text(text)

    def build(self) -> ImageVersion:
        return build_image(load_recipe(self.recipe), self.store, cache=self.cache)

    def assert_nothing_is_left(self) -> None:
        """No half image, no step half made, no mount, no process of dnf."""
        assert not list(self.store.folder.glob("*/*"))
        assert not list(self.store.folder.glob(".staging*"))
        assert not list((self.cache / "tiny").glob("*"))
        assert not list((self.cache / "tiny").glob(".*"))
        assert str(self.cache) not in Path("/proc/self/mountinfo").read_text()
        assert self.processes() == []

    def processes(self) -> list[str]:
        """Those whose command line or root is below our cache."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
                root = str((entry / "root").readlink())
            except OSError:
                continue  # it has ended
            if entry.name != str(os.getpid()) and str(self.cache) in command + root:
                found.append(command)
        return found


@pytest.fixture
def workshop(tmp_path: Path, forge: Forge) -> Workshop:
    return Workshop(tmp_path, forge)


def boot(image: ImageVersion, folder: Path) -> str:
    """What the machine says until its root is done."""
    root = image.manifest.root
    assert root is not None
    arguments = f"console=ttyS0 loglevel=4 bootnode.node=alder bootnode.image=tiny/{image.version} "
    arguments += f"BOOTIF=01-{MAC.replace(':', '-')} bootnode.root={root.format} "
    arguments += f"bootnode.root_file={root.file} bootnode.root_ram={root.ram_bytes}"
    ramdisk = folder / "initrd.img"
    with ramdisk.open("wb") as file:
        for name in image.initrds:
            raw = (image.folder / name).read_bytes()
            file.write(raw + bytes(-len(raw) % 4))
    command = ["qemu-system-x86_64", "-accel", "tcg", "-machine", "pc,graphics=off", "-m", "768"]
    command += ["-display", "none", "-no-reboot", "-nodefaults", "-serial", "stdio"]
    command += ["-netdev", "user,id=net", "-device", f"virtio-net-pci,netdev=net,mac={MAC}"]
    command += ["-kernel", str(image.folder / image.kernel), "-initrd", str(ramdisk)]
    command += ["-append", arguments]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    alarm = threading.Timer(BOOT_TIMEOUT_S, process.kill)
    alarm.start()
    try:
        said, _ = process.communicate()
        return said.decode(errors="replace").replace("\r", "")
    finally:
        alarm.cancel()
        process.kill()
        process.wait()


ROOTS = {
    "squashfs": "squashfs / overlay rw,.*",
    "cpio": "(none|rootfs) / rootfs rw.*",
    "tar.zst": "root / tmpfs rw,.*",
}


@pytest.mark.parametrize("root_format", ROOTS)
def test_rocky_is_built_and_boots(workshop: Workshop, tmp_path: Path, root_format: str) -> None:
    workshop.write(root_format=root_format)
    image = workshop.build()
    names = {"Tiny_system", "busybox", "filesystem", "kernel-core", "rpm"}
    names |= {"zstd"} if root_format == "tar.zst" else set()
    assert image.manifest.packages == dict.fromkeys(names, "1-2.el8")
    said = boot(image, tmp_path)
    for line in (
        "id rocky 8.10",
        f"mount {ROOTS[root_format]}",
        "said 50-dracut is masked 51-dracut-rescue is masked",
        "machine-id 0",
        "boot",
        rf"connection 600 mac-address={MAC}",
        r"device \[device\] managed=true connection-uuid=[0-9a-f-]{36}",
    ):
        assert re.search(rf"^ROOT: {line} *$", said, re.M), f"no '{line}' in:\n{said}"
    listed = re.search(r"^ROOT: packages (.*)$", said, re.M)
    assert listed
    assert set(listed[1].split()) == {*names, "gpg-pubkey"}


def test_an_unchanged_recipe_is_not_built_again(workshop: Workshop) -> None:
    workshop.write("Tiny_system")
    image = workshop.build()
    (workshop.cache / "tiny/rootfs/output/root/etc/mark").touch()
    assert workshop.build() == image
    assert (workshop.cache / "tiny/rootfs/output/root/etc/mark").exists()
    shutil.copy(workshop.forge.folder / "stranger.asc", workshop.recipe / "rocky.asc")
    with pytest.raises(ImageError, match="is signed by another key"):
        workshop.build()
    assert workshop.store.current("tiny") == image


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["Tiny_sistem"], "^no repository of the recipe has a package Tiny_sistem: correct the re"),
        (["broken"], r"^broken-1-2\.el8\.x86_64 needs nowhere, which no repository of the recipe"),
    ],
)
def test_packages_that_are_not_there_are_named(
    workshop: Workshop, names: list[str], message: str
) -> None:
    workshop.write(*names)
    with pytest.raises(ImageError, match=message):
        workshop.build()
    workshop.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("name", "key", "message"),
    [
        ("unsigned", None, r"^the package \S+-1-2\.el8\.x86_64 is not signed, but its repository"),
        ("foreign", "stranger", r"^the package \S+ is signed by another key than its repository's"),
    ],
)
def test_packages_that_somebody_else_made_are_refused(
    workshop: Workshop, name: str, key: str | None, message: str
) -> None:
    workshop.write(repository=workshop.forge.copy(name, key))
    with pytest.raises(ImageError, match=message):
        workshop.build()
    workshop.assert_nothing_is_left()


def test_a_package_that_was_changed_on_its_way_is_refused(workshop: Workshop) -> None:
    tampered = workshop.forge.copy("tampered", "rocky")
    (file,) = tampered.rglob("Tiny_system-*.rpm")
    raw = bytearray(file.read_bytes())
    raw[-40] ^= 1
    file.write_bytes(raw)
    workshop.write(repository=tampered)
    with pytest.raises(ImageError, match=r"^`dnf` failed with exit status 1:(.|\n)*checksum"):
        workshop.build()
    workshop.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///nowhere/at/all", "Couldn't open file /nowhere/at/all/repodata/repomd.xml"),
        ("http://127.0.0.1:1/os", r"Failed to connect to 127\.0\.0\.1 port 1"),
    ],
)
def test_a_repository_that_is_not_there_is_named(workshop: Workshop, url: str, reason: str) -> None:
    text = (workshop.recipe / "image.yaml").read_text()
    (workshop.recipe / "image.yaml").write_text(re.sub(r"file://[^\"]+", url, text))
    with pytest.raises(
        ImageError, match=rf"^cannot fetch {url}\S+ of the repository 'base': {reason}"
    ):
        workshop.build()
    workshop.assert_nothing_is_left()


def test_a_format_that_the_kernel_cannot_mount_is_named(workshop: Workshop) -> None:
    workshop.write("Tiny_system", root_format="erofs")
    with pytest.raises(ImageError, match=r"image\.yaml: the kernel has no module 'erofs'"):
        workshop.build()


SLOW_BUILD = """\
import sys
from pathlib import Path
from bootnode.image.build import build_image
from bootnode.image.spec import load_recipe
from bootnode.image.store import ImageStore
state = Path(sys.argv[2])
build_image(load_recipe(Path(sys.argv[1])), ImageStore(state / "images"), cache=state / "cache")
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_build_that_is_ended_leaves_nothing_running(
    workshop: Workshop, how: signal.Signals
) -> None:
    workshop.write("slow")
    arguments = [str(workshop.recipe), str(workshop.cache.parent)]
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_BUILD, *arguments], stderr=subprocess.DEVNULL
    ) as process:
        while not list((workshop.cache / "tiny").glob(".step-*/new/output/root/started")):
            assert process.poll() is None
            os.sched_yield()
        process.send_signal(how)
    while workshop.processes():
        os.sched_yield()
    workshop.write("Tiny_sistem")
    with pytest.raises(ImageError, match="no repository of the recipe has a package Tiny_sistem"):
        workshop.build()
    workshop.assert_nothing_is_left()
