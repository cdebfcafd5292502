"""Building images with an operating system; a small root stands for what mmdebstrap installs."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bootnode.errors import ImageError
from bootnode.image import source
from bootnode.image.build import build_image, build_step
from bootnode.image.spec import load_recipe
from bootnode.image.steps import Progress
from bootnode.image.store import ImageStore, ImageVersion

pytestmark = pytest.mark.root

RECIPE = """\
description: a test
distribution: debian
release: bookworm
packages: [base]
overlay: overlay
customise: customise
root: {format: squashfs}
kernel:
  package: linux-image-test
  modules: [virtio_net]
kernel_args: [quiet]
"""
CUSTOMISE = "#!/bin/sh\nset -eu\ncat /etc/motd >/customised\n"
STEPS = ["rootfs", "customise", "archive", "kernel", "ramdisk", "stub"]
STUB = "linuxx64.efi.stub"


class Workshop:
    """A recipe, a store, and builds that say which steps they did."""

    def __init__(self, folder: Path) -> None:
        self.recipe = folder / "recipes" / "tiny"
        (self.recipe / "overlay/etc").mkdir(parents=True)
        (self.recipe / "overlay/etc/motd").write_text("hello\n")
        (self.recipe / "image.yaml").write_text(RECIPE)
        (self.recipe / "customise").write_text(CUSTOMISE)
        init = folder / "recipes/init"
        init.mkdir()
        (init / "init").write_text("#!/bin/sh\n")
        self.store = ImageStore(folder / "state/images")
        self.cache = folder / "state/cache"
        self.done: list[str] = []

    def build(self, begin: str | None = None) -> ImageVersion:
        """Build; `done` are the steps that were not skipped."""
        reports: list[Progress] = []
        image = build_image(
            load_recipe(self.recipe),
            self.store,
            cache=self.cache,
            report=reports.append,
            begin=begin,
        )
        ended = [progress for progress in reports if progress.seconds is not None]
        assert sorted(progress.step for progress in ended) == sorted([*STEPS, "publish"])
        self.done = [progress.step for progress in ended[:-1] if not progress.is_skipped]
        return image

    def build_only(self, step: str) -> ImageVersion | None:
        """Do one step; `done` are the steps that were not skipped."""
        reports: list[Progress] = []
        image = build_step(
            load_recipe(self.recipe), self.store, step, cache=self.cache, report=reports.append
        )
        self.done = [p.step for p in reports if p.seconds is not None and not p.is_skipped]
        return image

    def change(self, old: str, new: str) -> None:
        """Change the recipe."""
        text = (self.recipe / "image.yaml").read_text()
        assert old in text
        (self.recipe / "image.yaml").write_text(text.replace(old, new))

    def root_file(self, name: str) -> Path:
        """A file of the customised root file system."""
        return self.cache / "tiny/customise/output/root" / name


@pytest.fixture
def workshop(mmdebstrap: Path, tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def names(image: ImageVersion) -> list[str]:
    return sorted(path.name for path in image.folder.iterdir())


def test_a_system_is_built_and_described(workshop: Workshop) -> None:
    image = workshop.build()
    assert names(image) == ["initrd.img", STUB, "manifest.json", "root.squashfs", "vmlinuz"]
    manifest = json.loads((image.folder / "manifest.json").read_text())
    raw = (image.folder / "root.squashfs").read_bytes()
    assert manifest["root"] == {
        "format": "squashfs",
        "fetch": "init",
        "file": "root.squashfs",
        "size_bytes": len(raw),
        "sha256": hashlib.sha256(raw).hexdigest(),
        "ram_bytes": -(-len(raw) // 4096) * 4096,
    }
    assert manifest["initrds"] == ["initrd.img"]
    assert manifest["kernel_release"] == "6.1.0-1-test"
    assert manifest["packages"] == {"base": "1.0", "linux-image-test": "6.1.0-1"}
    assert manifest["ram_bytes"] > manifest["root"]["ram_bytes"]
    assert workshop.root_file("customised").read_text() == "hello\n"
    assert not list(workshop.root_file("boot").glob("vmlinuz*"))
    ramdisk = (image.folder / "initrd.img").read_bytes()
    for module in ("virtio_net", "squashfs", "loop", "overlay"):
        assert f"/{module}.ko.xz\0".encode() in ramdisk
    assert b"/erofs.ko.xz\0" not in ramdisk


def touch_nothing(_workshop: Workshop) -> None: ...


def change_init(workshop: Workshop) -> None:
    (workshop.recipe.parent / "init/init").write_text("#!/bin/sh\necho another\n")


def change_load(workshop: Workshop) -> None:
    workshop.change("modules: [virtio_net]", "modules: [virtio_net]\n  load: [loop]")


def change_overlay(workshop: Workshop) -> None:
    (workshop.recipe / "overlay/etc/motd").write_text("another\n")


def change_script(workshop: Workshop) -> None:
    (workshop.recipe / "customise").write_text(CUSTOMISE + "echo another\n")


def change_format(workshop: Workshop) -> None:
    workshop.change("squashfs", "erofs")


def change_packages(workshop: Workshop) -> None:
    workshop.change("[base]", "[base, more]")


def change_arguments(workshop: Workshop) -> None:
    workshop.change("[quiet]", "[loud]")


@pytest.mark.parametrize(
    ("change", "done"),
    [
        (touch_nothing, []),
        (change_arguments, []),
        (change_init, ["ramdisk"]),
        (change_load, ["kernel", "ramdisk"]),
        (change_format, ["archive", "kernel", "ramdisk"]),
        (change_overlay, STEPS[1:-1]),
        (change_script, STEPS[1:-1]),
        (change_packages, STEPS[:-1]),
    ],
)
def test_only_what_changed_is_made_again(
    workshop: Workshop, change: Callable[[Workshop], None], done: list[str]
) -> None:
    workshop.build()
    assert workshop.done == STEPS
    change(workshop)
    workshop.build()
    assert workshop.done == done
    workshop.build()
    assert workshop.done == []


@pytest.mark.parametrize("begin", STEPS)
def test_a_step_and_those_after_it_can_be_done_again(workshop: Workshop, begin: str) -> None:
    first = workshop.build()
    second = workshop.build(begin)
    assert workshop.done == STEPS[STEPS.index(begin) :]
    assert second == first  # the same inputs give the same bytes


def test_a_step_that_is_none_is_named(workshop: Workshop) -> None:
    with pytest.raises(ImageError, match=r"'tiny' has no step 'rotfs' \(want one of rootfs, cust"):
        workshop.build("rotfs")


def test_a_step_can_be_done_alone(workshop: Workshop) -> None:
    first = workshop.build()
    # What changed before it does not count, and what comes after it is not done.
    change_packages(workshop)
    change_init(workshop)
    for step in STEPS[1:]:
        assert workshop.build_only(step) is None
        assert workshop.done == [step]
    assert workshop.store.current("tiny") == first
    image = workshop.build_only("publish")
    assert workshop.done == ["publish"]
    assert image == workshop.store.current("tiny") != first
    workshop.build()
    assert workshop.done == STEPS[:-1]


def test_a_step_alone_needs_those_before_it(workshop: Workshop) -> None:
    with pytest.raises(ImageError, match="the step 'rootfs' was never made: build without --only"):
        workshop.build_only("archive")
    with pytest.raises(ImageError, match="'tiny' has no step 'packages'"):
        workshop.build_only("packages")


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (
            "{tree: 1MiB}",
            r"'tiny' unpacked takes \d+ MiB, over limits\.tree of 1 MiB \(the biggest: /",
        ),
        ("{file: 1MiB}", r"'tiny' packed takes \d+ MiB, over limits\.file of 1 MiB"),
        ("{ram: 1MiB}", r"'tiny' takes \d+ MiB, over limits\.ram of 1 MiB"),
    ],
)
def test_a_size_over_its_limit_is_not_published(
    workshop: Workshop, limits: str, words: str
) -> None:
    (workshop.recipe / "overlay/blob").write_bytes(os.urandom(2 << 20))
    text = (workshop.recipe / "image.yaml").read_text()
    (workshop.recipe / "image.yaml").write_text(f"{text}limits: {limits}\n")
    with pytest.raises(ImageError, match=words):
        workshop.build()
    assert not workshop.store.names()
    # What was made is good: a higher limit needs no other build of it.
    workshop.change("1MiB", "1GiB")
    workshop.build()
    assert "customise" not in workshop.done


@pytest.mark.parametrize(
    ("root", "files", "initrds", "path"),
    [
        ("erofs", ["root.erofs"], ["initrd.img"], "root.erofs"),
        ("tar.xz", ["root.tar.xz"], ["initrd.img"], "root.tar.xz"),
        ("tar.zst", ["root.tar.zst"], ["initrd.img"], "root.tar.zst"),
        ("cpio", ["root.img"], ["initrd.img", "root.img"], "/root"),
        ("tar.xz, fetch: ramdisk", ["root.img"], ["initrd.img", "root.img"], "/root.tar.xz"),
    ],
)
def test_each_format_is_published(
    workshop: Workshop, root: str, files: list[str], initrds: list[str], path: str
) -> None:
    workshop.change("format: squashfs", f"format: {root}")
    image = workshop.build()
    assert names(image) == sorted(["initrd.img", STUB, "manifest.json", "vmlinuz", *files])
    assert list(image.initrds) == initrds
    assert image.manifest.root is not None
    assert image.manifest.root.file == path


def test_a_ramdisk_for_tar_zst_brings_its_unpacker(workshop: Workshop, mmdebstrap: Path) -> None:
    workshop.change("squashfs", "tar.zst")
    ramdisk = (workshop.build().folder / "initrd.img").read_bytes()
    assert "zstd" in mmdebstrap.read_text()
    for name in (b"bin/zstd\0", b"lib/libz.so.1\0", b"lib64/ld.so\0"):
        assert name in ramdisk


def test_the_time_of_everything_can_be_set(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = workshop.build()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "500000000")
    assert workshop.build().version != first.version
    assert workshop.done == STEPS[1:-1]
    assert workshop.root_file("customised").stat().st_mtime == 500_000_000


def test_overlays_and_scripts_of_a_base_come_first(workshop: Workshop) -> None:
    own = workshop.recipe.parent / "own"
    (own / "overlay/etc").mkdir(parents=True)
    (own / "overlay/etc/motd").write_text("mine\n")
    (own / "then").write_text("#!/bin/sh\ncat /customised >/then\n")
    lines = "description: x\nbase: tiny\noverlay: overlay\ncustomise: then\npackages: [more]\n"
    (own / "image.yaml").write_text(lines)
    workshop.recipe = own
    build_image(load_recipe(own), workshop.store, cache=workshop.cache)
    root = workshop.cache / "own/customise/output/root"
    assert (root / "then").read_text() == (root / "customised").read_text() == "mine\n"


def test_bootnode_is_there_for_the_scripts(
    workshop: Workshop, small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small_root / "usr/bin/python3").symlink_to(f"python3.{sys.version_info.minor}")
    sources = tmp_path / "sources"
    sources.mkdir()
    monkeypatch.setattr(source, "source_folder", lambda: sources)
    monkeypatch.setattr(source, "SOURCES", ("pyproject.toml", "bootnode"))
    (sources / "bootnode").mkdir()
    (sources / "bootnode/__init__.py").touch()
    (sources / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "bootnode"\nversion = "5"\n'
    )
    workshop.change("packages: [base]", "packages: [base]\nbootnode: true")
    (workshop.recipe / "customise").write_text(
        "#!/bin/sh\ncat /run/bootnode/source/pyproject.toml >/installed\n"
        "echo /run/bootnode/wheels/* >>/installed\n"
    )
    steps = [STEPS[0], "bootnode", *STEPS[1:]]
    monkeypatch.setattr(sys.modules[__name__], "STEPS", steps)
    workshop.build()
    assert workshop.done == steps
    installed = workshop.root_file("installed").read_text().splitlines()
    assert 'version = "5"' in installed
    assert installed[-1] == "/run/bootnode/wheels/bootnode-5-py2.py3-none-any.whl"
    workshop.build()
    assert workshop.done == []
    (sources / "bootnode/new.py").touch()
    workshop.build()
    assert workshop.done == steps[1:-1]  # the stub has nothing to do with it


def test_a_kernel_without_its_modules_is_found(workshop: Workshop) -> None:
    (workshop.recipe / "overlay/boot").mkdir()
    (workshop.recipe / "overlay/boot/vmlinuz-5.0-old").write_text("another kernel")
    with pytest.raises(ImageError, match=r"vmlinuz-5\.0-old, vmlinuz-6\.1\.0-1-test in /boot"):
        workshop.build()


def test_a_failed_step_keeps_what_is_published(workshop: Workshop) -> None:
    image = workshop.build()
    (workshop.recipe / "customise").write_text("#!/bin/sh\necho the disk is full\nexit 1\n")
    with pytest.raises(ImageError, match="the disk is full"):
        workshop.build()
    assert workshop.store.current("tiny") == image
    assert not list(workshop.store.folder.glob(".staging*"))
    assert not list((workshop.cache / "tiny").glob(".*"))
    (workshop.recipe / "customise").write_text(CUSTOMISE)
    assert workshop.build() == image
    assert workshop.done == []
