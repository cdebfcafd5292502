from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from bootnode.errors import ImageError
from bootnode.image import making
from bootnode.image.build import build_image
from bootnode.image.making import source_date_epoch
from bootnode.image.spec import Recipe, load_recipe
from bootnode.image.steps import Progress
from bootnode.image.store import ImageStore, ImageVersion
from bootnode.nodes import Loader

STUB = "linuxx64.efi.stub"
RECIPE = """\
description: a test
kernel:
  package: linux-image-test
  modules: [virtio_net, fs/*]
  load: [virtio_net]
kernel_args: [quiet]
"""


class Archive(Protocol):
    """What these tests use of the archive of conftest."""

    top: Path

    def add(self, name: str, files: dict[str, bytes], *, depends: str = "") -> None: ...
    def update(self) -> None: ...


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "state/images")


def recipe_in(folder: Path, text: str = RECIPE) -> Recipe:
    folder.mkdir(exist_ok=True)
    (folder / "image.yaml").write_text(text)
    return load_recipe(folder)


def build(store: ImageStore, recipe: Recipe, steps: list[Progress] | None = None) -> ImageVersion:
    report = (lambda _progress: None) if steps is None else steps.append
    return build_image(recipe, store, cache=store.folder.parent / "cache", report=report)


def left_in(store: ImageStore) -> set[str]:
    return {path.name for path in store.folder.iterdir()} - {".lock"}


def unpacked(image: ImageVersion) -> bytes:
    return (image.folder / image.initrds[0]).read_bytes()


def test_a_build_publishes_kernel_ramdisk_and_manifest(
    archive: Archive, store: ImageStore, tmp_path: Path
) -> None:
    image = build(store, recipe_in(tmp_path / "tiny"))
    assert store.current("tiny") == image
    assert sorted(path.name for path in image.folder.iterdir()) == [
        "initrd.img",
        STUB,
        "manifest.json",
        "vmlinuz",
    ]
    assert (image.folder / "vmlinuz").read_bytes() == b"the kernel"
    manifest = image.manifest
    assert manifest.kernel_args == ("quiet",)
    assert (manifest.stub, manifest.loader) == (STUB, None)
    assert (image.folder / STUB).read_bytes().startswith(b"MZ")
    assert manifest.kernel_release == "6.1.0-1-test"
    assert manifest.packages == {"linux-image-6.1.0-1-test": "1.0", "busybox-static": "1.0"}
    assert manifest.ram_bytes % 4096 == 0
    assert manifest.ram_bytes > 0


def test_files_for_each_node_are_part_of_the_version(
    archive: Archive, store: ImageStore, tmp_path: Path
) -> None:
    template = tmp_path / "tiny/files/etc/hostname.j2"
    template.parent.mkdir(parents=True)
    template.write_text("{{ node.name }}\n")
    recipe = recipe_in(tmp_path / "tiny", RECIPE + "node_files: files\n")
    first = build(store, recipe)
    assert first.manifest.node_files == "node-files.tar"
    assert "node-files.tar" in {file.name for file in first.manifest.files}
    assert build(store, recipe) == first
    template.write_text("{{ node.name }}.example\n")
    assert build(store, recipe).version != first.version
    # A wrong template is found before anything else is done.
    template.write_text("\n{{ node.name\n")
    steps: list[Progress] = []
    with pytest.raises(ImageError, match=rf"^{template}:2: "):
        build(store, recipe, steps)
    assert steps == []


def test_the_ramdisk_holds_what_was_asked_for_and_what_that_needs(
    archive: Archive, store: ImageStore, tmp_path: Path
) -> None:
    content = unpacked(build(store, recipe_in(tmp_path / "tiny")))
    modules = b"lib/modules/6.1.0-1-test/"
    for name in (
        b"init",
        b"bin/busybox",
        b"lib/bootnode/boot.sh",
        b"dev/console",
        modules + b"modules.dep",
        modules + b"modules.alias",
        modules + b"kernel/drivers/net/virtio_net.ko.xz",
        modules + b"kernel/fs/ext4/ext4.ko.xz",
        modules + b"kernel/crypto/crc32c_generic.ko.xz",
    ):
        assert name + b"\0" in content
    assert b"other.ko" not in content
    assert b"modules.dep.bin" not in content
    assert b"alias virtio:d00000001v* virtio_net" in content
    assert b"virtio_net\n" in content  # etc/bootnode/modules


def test_two_builds_of_the_same_inputs_are_the_same(archive: Archive, tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path / "tiny")
    first = build(ImageStore(tmp_path / "a/images"), recipe)
    second = build(ImageStore(tmp_path / "b/images"), recipe)
    assert first.version == second.version
    assert first.manifest.files == second.manifest.files


def test_building_again_changes_nothing(
    archive: Archive, store: ImageStore, tmp_path: Path
) -> None:
    recipe = recipe_in(tmp_path / "tiny")
    assert build(store, recipe) == build(store, recipe)
    assert len(store.versions("tiny")) == 1


def test_another_time_is_another_version(
    archive: Archive, store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_in(tmp_path / "tiny")
    first = build(store, recipe)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert build(store, recipe).version != first.version


def test_each_step_is_reported_and_logged(
    archive: Archive, store: ImageStore, tmp_path: Path
) -> None:
    steps: list[Progress] = []
    build(store, recipe_in(tmp_path / "tiny"), steps)
    names = [step.step for step in steps if step.seconds is not None]
    assert names == ["packages", "kernel", "ramdisk", "stub", "publish"]
    assert [step.step for step in steps if step.seconds is None] == names
    log = (store.folder.parent / "cache/tiny.log").read_text()
    assert "== kernel: linux-image-6.1.0-1-test 1.0" in log
    assert "$ depmod -b" in log


def test_modules_below_usr_are_found(archive: Archive, store: ImageStore, tmp_path: Path) -> None:
    tree = archive.top / "trees/linux-image-6.1.0-1-test"
    files = {
        str(path.relative_to(tree)).replace("lib/modules", "usr/lib/modules"): path.read_bytes()
        for path in tree.rglob("*")
        if path.is_file() and "DEBIAN" not in path.parts
    }
    archive.add("linux-image-6.1.0-1-test", files)
    archive.add("busybox-static", {"usr/bin/busybox": b"the busybox"})
    archive.update()
    assert b"the busybox" in unpacked(build(store, recipe_in(tmp_path / "tiny")))


@pytest.mark.parametrize(
    ("package", "files", "message"),
    [
        ("busybox-static", {"usr/share/doc/x": b""}, "busybox-static holds no busybox"),
        ("linux-image-6.1.0-1-test", {"x": b""}, "linux-image-6.1.0-1-test holds 0 kernels"),
        (
            "linux-image-6.1.0-1-test",
            {"boot/vmlinuz-6.1.0-1-test": b""},
            "linux-image-6.1.0-1-test holds no modules",
        ),
    ],
)
def test_a_package_without_what_we_want_is_named(
    archive: Archive,
    store: ImageStore,
    tmp_path: Path,
    package: str,
    files: dict[str, bytes],
    message: str,
) -> None:
    archive.add(package, files)
    archive.update()
    with pytest.raises(ImageError, match=message):
        build(store, recipe_in(tmp_path / "tiny"))
    assert left_in(store) == set()


def test_a_module_the_kernel_lacks_is_named_with_its_recipe(
    archive: Archive, store: ImageStore, tmp_path: Path
) -> None:
    recipe = recipe_in(tmp_path / "tiny", RECIPE.replace("[virtio_net, fs/*]", "[virtio_met]"))
    with pytest.raises(ImageError, match=r"tiny/image\.yaml: .* 'virtio_met' \(did you mean"):
        build(store, recipe)
    assert left_in(store) == set()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, r"no space left in .*/state: make room there, for example by `bootnode im"),
        (errno.EDQUOT, r"no space left in "),
        (errno.EIO, r"Input/output error \(initrd\.img\)$"),
    ],
)
def test_a_failed_build_keeps_what_was_published(
    archive: Archive,
    store: ImageStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    words: str,
) -> None:
    recipe = recipe_in(tmp_path / "tiny")
    image = build(store, recipe)

    def full(*_arguments: object, **_keywords: object) -> None:
        raise OSError(number, os.strerror(number), "initrd.img")

    monkeypatch.setattr(making, "write_ramdisk", full)
    with pytest.raises(ImageError, match=f"^building 'tiny' failed: {words}"):
        build(store, recipe_in(tmp_path / "tiny", RECIPE.replace("[virtio_net]", "[ext4]")))
    assert store.current("tiny") == image
    assert left_in(store) == {"tiny"}


def test_leftovers_of_a_killed_download_are_removed(
    archive: Archive, store: ImageStore, tmp_path: Path
) -> None:
    leftover = store.folder.parent / "cache/.download-abc"
    leftover.mkdir(parents=True)
    build(store, recipe_in(tmp_path / "tiny"))
    assert not leftover.exists()


@pytest.mark.parametrize("text", ["", "-1", "soon", "1.5"])
def test_a_time_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    with pytest.raises(ImageError, match="want seconds since 1970"):
        source_date_epoch()


def test_times_are_zero_unless_somebody_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert source_date_epoch() == 0


SLOW_BUILD = """\
import sys, time
from pathlib import Path
from bootnode.image import build
from bootnode.image.spec import load_recipe
from bootnode.image.store import ImageStore

def report(progress):
    if progress.step == "kernel":
        print("ready", flush=True)
        time.sleep(60)

state = Path(sys.argv[2])
store = ImageStore(state / "images")
build.build_image(load_recipe(Path(sys.argv[1])), store, cache=state / "cache", report=report)
"""


@pytest.mark.parametrize(
    ("how", "left"), [(signal.SIGINT, set()), (signal.SIGKILL, {".staging"})], ids=["int", "kill"]
)
def test_an_ended_build_blocks_and_leaves_nothing(
    archive: Archive, store: ImageStore, tmp_path: Path, how: signal.Signals, left: set[str]
) -> None:
    recipe = recipe_in(tmp_path / "tiny")
    arguments = [str(recipe.folder), str(store.folder.parent)]
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_BUILD, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        with pytest.raises(ImageError, match="another build runs"):
            build(store, recipe)
        process.send_signal(how)
    assert {name.partition("-")[0] for name in left_in(store)} == left
    build(store, recipe)
    assert left_in(store) == {"tiny"}


def test_the_manifest_names_the_time_of_the_build(
    archive: Archive, store: ImageStore, tmp_path: Path
) -> None:
    before = int(time.time())
    image = build(store, recipe_in(tmp_path / "tiny"))
    manifest = json.loads((image.folder / "manifest.json").read_text())
    assert before <= manifest["built_at"] <= time.time()


def test_an_image_can_say_how_its_nodes_boot(
    archive: Archive, store: ImageStore, tmp_path: Path
) -> None:
    recipe = replace(recipe_in(tmp_path / "tiny"), loader=Loader.UKI)
    assert build(store, recipe).manifest.loader is Loader.UKI


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"usr/lib/linuxia32.efi.stub": b"MZ"}, "systemd-boot-efi holds 0 stubs, not one"),
        ({f"usr/lib/{STUB}": b"MZ"}, "not a UEFI stub: it is cut short"),
    ],
)
def test_a_package_without_a_stub_of_use(
    archive: Archive, store: ImageStore, tmp_path: Path, files: dict[str, bytes], reason: str
) -> None:
    archive.add("systemd-boot-efi", files)
    archive.update()
    with pytest.raises(ImageError, match=reason):
        build(store, recipe_in(tmp_path / "tiny"))
