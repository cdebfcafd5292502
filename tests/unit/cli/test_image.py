"""`bootnode image list` and `show`; building is tested where it is done."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bootnode.image.store import Contents, ImageStore, Provenance, RootFile

Run = Callable[..., Any]
Publish = Callable[..., str]


def test_no_images(run: Run) -> None:
    outcome = run("image", "list")
    assert (outcome.status, outcome.out) == (
        0,
        "IMAGE  VERSION    KERNEL  SIZE  IN RAM  BUILT\n",
    )
    assert json.loads(run("image", "list", "--json").out) == []


def test_list_in_a_pipe(run: Run, publish: Publish) -> None:
    old, new = publish("failsafe", b"1"), publish("failsafe")
    outcome = run("image", "list")
    lines = [re.split(r"\s{2,}", line) for line in outcome.out.splitlines()[1:]]
    assert {line[1]: line[2] for line in lines} == {old: "6.1.0-test", new: "current"}
    built = r"\d{4}-\d\d-\d\d \d\d:\d\d UTC"
    assert re.search(
        rf"^failsafe  {new}  current  6\.1\.0-test  14\.2 MB  30\.0 MB  {built}$",
        outcome.out,
        re.MULTILINE,
    )


def test_list_for_programs(run: Run, publish: Publish) -> None:
    old, new = publish("failsafe", b"1"), publish("failsafe", b"2")
    images = json.loads(run("image", "list", "--json").out)
    assert {image["version"]: image["current"] for image in images} == {old: False, new: True}
    assert images[0]["kernel_release"] == "6.1.0-test"


def test_show(run: Run, publish: Publish, folder: Path) -> None:
    version = publish("failsafe", b"12345")
    outcome = run("image", "show", "failsafe")
    values = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in outcome.out.splitlines())
    assert values["version"] == version
    assert values["folder"] == f"{folder}/state/images/failsafe/{version}"
    assert values["kernel_args"] == "-"
    assert values["root"] == "- (the ramdisk is all there is)"
    assert re.fullmatch(r"5 B  sha256 [0-9a-f]{64}", values["initrd.img"])
    assert values["busybox-static"] == "1.35"
    plain = json.loads(run("image", "show", "failsafe", "--json").out)
    assert (plain["version"], plain["initrds"]) == (version, ["initrd.img"])


def test_show_tells_of_the_root_file_system(run: Run, folder: Path) -> None:
    store = ImageStore(folder / "state" / "images")
    for fetch in ("init", "ramdisk"):
        root = RootFile(
            format="erofs",
            fetch=fetch,
            file="root.erofs",
            size_bytes=5,
            sha256="0" * 64,
            ram_bytes=143_000_000,
        )
        contents = Contents(
            kernel="vmlinuz", initrds=(), kernel_release="6.1", ram_bytes=1, root=root
        )
        with store.staging(fetch) as staging:
            (staging / "files").mkdir()
            provenance = Provenance(recipe_sha256="", packages={})
            store.publish(fetch, staging / "files", contents, provenance)
    shown = re.compile(r"^root +(.*)$", re.MULTILINE)
    for name, by in (("init", "init"), ("ramdisk", "the boot loader")):
        found = shown.search(run("image", "show", name).out)
        assert found
        assert found[1] == f"erofs, fetched by {by}, 143.0 MB in RAM"


def test_a_step_that_is_none(run: Run) -> None:
    outcome = run("image", "build", "failsafe", "--from", "rootfs")
    assert outcome.status == 1
    assert outcome.err == (
        "bootnode: 'failsafe' has no step 'rootfs' "
        "(want one of packages, kernel, ramdisk, publish)\n"
    )
    assert run("image", "build", "failsafe", "--only", "nothing").err.startswith(
        "bootnode: 'failsafe' has no step 'nothing'"
    )


def test_an_image_that_is_not_there(run: Run) -> None:
    outcome = run("image", "show", "failsafe")
    assert outcome.status == 1
    assert outcome.err == (
        "bootnode: image 'failsafe' is not built: run `bootnode image build failsafe`\n"
    )


def test_a_recipe_that_is_not_there(run: Run) -> None:
    outcome = run("image", "build", "nonesuch")
    assert outcome.status == 1
    assert re.fullmatch(
        r"bootnode: there is no recipe 'nonesuch' \(there are: .*failsafe.*\)\n", outcome.err
    )


def test_delete(run: Run, publish: Publish) -> None:
    old, new = publish("failsafe", b"1"), publish("failsafe", b"2")
    assert run("image", "delete", "failsafe", old).out == f"failsafe {old} is deleted\n"
    assert [image["version"] for image in json.loads(run("image", "list", "--json").out)] == [new]
