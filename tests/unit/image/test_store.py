from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from bootnode.errors import ImageError
from bootnode.image.store import (
    Contents,
    DamagedVersion,
    ImageStore,
    ImageVersion,
    Provenance,
    RootFile,
    hash_tree,
)

CONTENTS = Contents(
    kernel="vmlinuz",
    initrds=("initrd.img",),
    kernel_args=("quiet",),
    kernel_release="6.1.0-1-test",
    ram_bytes=4096,
)
PROVENANCE = Provenance(recipe_sha256="0" * 64, packages={"busybox-static": "1:1.35.0-4"})


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "state" / "images")


def publish(
    store: ImageStore,
    name: str = "failsafe",
    kernel: bytes = b"k",
    provenance: Provenance = PROVENANCE,
) -> ImageVersion:
    with store.staging(name) as staging:
        staged = staging / "version"
        staged.mkdir()
        (staged / "vmlinuz").write_bytes(kernel)
        (staged / "initrd.img").write_bytes(b"i")
        return store.publish(name, staged, CONTENTS, provenance)


def delete(store: ImageStore, version: str, name: str = "failsafe") -> int:
    with store.changing():
        return store.delete(name, version)


def roll_back(store: ImageStore, version: str | None = None) -> ImageVersion:
    with store.changing():
        if version is None:
            return store.roll_back("failsafe")
        return store.make_current("failsafe", version)


def interrupt_a_build(store: ImageStore) -> None:
    with store.staging("failsafe") as staging:
        (staging / "half").write_text("made")
        raise KeyboardInterrupt


def visible(store: ImageStore) -> list[str]:
    return sorted(
        str(path.relative_to(store.folder))
        for path in store.folder.rglob("*")
        if path.name != ".lock"
    )


def test_what_is_published_is_current_and_described(store: ImageStore) -> None:
    image = publish(store)
    assert image == store.current("failsafe") == store.load("failsafe", image.version)
    assert (image.kernel, image.initrds, image.kernel_args) == (
        "vmlinuz",
        ("initrd.img",),
        ("quiet",),
    )
    manifest = json.loads((image.folder / "manifest.json").read_text())
    assert manifest["name"] == "failsafe"
    assert manifest["version"] == image.version == image.folder.name
    assert manifest["kernel_release"] == "6.1.0-1-test"
    assert manifest["packages"] == {"busybox-static": "1:1.35.0-4"}
    assert manifest["files"] == [
        {"name": "initrd.img", "size_bytes": 1, "sha256": hashlib.sha256(b"i").hexdigest()},
        {"name": "vmlinuz", "size_bytes": 1, "sha256": hashlib.sha256(b"k").hexdigest()},
    ]
    assert visible(store) == [
        "failsafe",
        f"failsafe/{image.version}",
        f"failsafe/{image.version}/initrd.img",
        f"failsafe/{image.version}/manifest.json",
        f"failsafe/{image.version}/vmlinuz",
        "failsafe/current",
        "failsafe/history",
    ]


def test_the_version_is_made_from_the_content_alone(store: ImageStore) -> None:
    first = publish(store)
    elsewhere = PROVENANCE.model_copy(update={"recipe_sha256": "1" * 64})
    again = publish(store, provenance=elsewhere)
    assert again == first
    assert publish(store, kernel=b"other").version != first.version
    assert publish(store, name="other").version != first.version
    assert len(store.versions("failsafe")) == 2


def test_publishing_an_old_version_makes_it_current_again(store: ImageStore) -> None:
    first = publish(store)
    publish(store, kernel=b"newer")
    assert store.current("failsafe") != first
    publish(store)
    assert store.current("failsafe") == first


def test_versions_are_in_the_order_they_were_built(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for built_at, kernel in ((30, b"c"), (10, b"a"), (20, b"b")):
        monkeypatch.setattr("time.time", lambda now=built_at: now)
        publish(store, kernel=kernel)
    whole = [image for image in store.versions("failsafe") if isinstance(image, ImageVersion)]
    assert [image.manifest.built_at for image in whole] == [10, 20, 30]


def test_all_may_read_and_none_may_change_whatever_the_umask(store: ImageStore) -> None:
    old = os.umask(0o077)
    try:
        image = publish(store)
    finally:
        os.umask(old)
    modes = {
        path.name: oct(stat.S_IMODE(path.stat().st_mode))
        for path in (store.folder, image.folder.parent, image.folder, *image.folder.iterdir())
    }
    assert modes == {
        "images": "0o755",
        "failsafe": "0o755",
        image.version: "0o755",
        "vmlinuz": "0o444",
        "initrd.img": "0o444",
        "manifest.json": "0o444",
    }


def test_names_are_those_with_a_version(store: ImageStore) -> None:
    assert store.names() == []
    publish(store)
    publish(store, name="compute")
    (store.folder / "empty").mkdir()
    assert store.names() == ["compute", "failsafe"]
    assert store.versions("empty") == store.versions("unheard-of") == []


def test_an_image_that_is_not_built_says_how_to_build_it(store: ImageStore) -> None:
    wanted = "image 'compute' is not built: run `bootnode image build compute`"
    with pytest.raises(ImageError, match=f"^{wanted}$"):
        store.current("compute")


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "A", ".hidden", "a" * 64, "a\n"])
def test_names_stay_inside_the_store(store: ImageStore, name: str) -> None:
    with pytest.raises(ImageError, match="cannot be an image's name"):
        store.current(name)
    with pytest.raises(ImageError, match="cannot be an image's name"), store.staging(name):
        pass


@pytest.mark.parametrize("version", ["", "..", "current", "0123", "0123456789abcdeF", "0" * 17])
def test_versions_stay_inside_the_image(store: ImageStore, version: str) -> None:
    publish(store)
    with pytest.raises(ImageError, match="is not a version"):
        store.load("failsafe", version)
    with pytest.raises(ImageError, match="is not a version"):
        delete(store, version)


def test_a_version_that_is_not_there_is_named(store: ImageStore) -> None:
    with pytest.raises(ImageError, match="image 'failsafe' has no version 0000000000000000"):
        store.load("failsafe", "0" * 16)


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b'{"name": "x"}'])
def test_a_damaged_manifest_says_what_to_do(store: ImageStore, damage: bytes) -> None:
    image = publish(store)
    (image.folder / "manifest.json").chmod(0o644)
    (image.folder / "manifest.json").write_bytes(damage)
    with pytest.raises(ImageError, match="run `bootnode image build failsafe`") as raised:
        store.current("failsafe")
    damaged = DamagedVersion(name="failsafe", version=image.version, reason=str(raised.value))
    assert store.versions("failsafe") == [damaged]
    delete(store, image.version)
    assert store.names() == []


def lose(image: ImageVersion, file: str) -> None:
    (image.folder / file).unlink()


def spoil(image: ImageVersion, file: str) -> None:
    (image.folder / file).chmod(0o644)
    (image.folder / file).write_bytes(b"?")


@pytest.mark.parametrize("harm", [lose, spoil])
@pytest.mark.parametrize("file", ["vmlinuz", "initrd.img", "manifest.json"])
def test_building_a_damaged_version_again_mends_it(
    store: ImageStore, harm: Callable[[ImageVersion, str], None], file: str
) -> None:
    image = publish(store)
    harm(image, file)
    assert publish(store).version == image.version
    assert (image.folder / "vmlinuz").read_bytes() == b"k"
    assert (image.folder / "initrd.img").read_bytes() == b"i"
    assert len(store.versions("failsafe")) == 1


def test_a_root_that_the_disk_has_damaged_is_not_published(store: ImageStore) -> None:
    root = RootFile(
        format="erofs",
        fetch="init",
        file="root.erofs",
        size_bytes=4,
        sha256=hashlib.sha256(b"root").hexdigest(),
        ram_bytes=4096,
    )
    contents = CONTENTS.model_copy(update={"root": root})
    for content, version in ((b"rood", None), (b"root", "published")):
        with store.staging("failsafe") as staging:
            (staging / "files").mkdir()
            (staging / "files/root.erofs").write_bytes(content)
            if version is None:
                with pytest.raises(ImageError, match="--from archive"):
                    store.publish("failsafe", staging / "files", contents, PROVENANCE)
            else:
                store.publish("failsafe", staging / "files", contents, PROVENANCE)
    assert len(store.versions("failsafe")) == 1


def test_a_failed_build_leaves_nothing(store: ImageStore) -> None:
    image = publish(store)
    before = visible(store)
    with pytest.raises(KeyboardInterrupt):
        interrupt_a_build(store)
    assert visible(store) == before
    assert store.current("failsafe") == image


def test_what_a_killed_build_left_is_removed_by_the_next(store: ImageStore) -> None:
    image = publish(store)
    before = visible(store)
    for name in (".staging-failsafe-abc", ".deleted-abc"):
        (store.folder / name / "deep").mkdir(parents=True)
    (image.folder.parent / ".current.new").symlink_to("nowhere")
    publish(store)
    assert visible(store) == before


def test_what_a_killed_deletion_left_is_removed_by_the_next(store: ImageStore) -> None:
    first, second = publish(store), publish(store, kernel=b"newer")
    (store.folder / f".deleted-failsafe-{first.version}" / "deep").mkdir(parents=True)
    (second.folder.parent / ".current.new").symlink_to("nowhere")
    (second.folder.parent / ".history.new").touch()
    delete(store, first.version)
    delete(store, second.version)
    assert visible(store) == []


def test_two_builds_at_once_are_refused(store: ImageStore) -> None:
    image = publish(store)
    with store.staging("failsafe"):
        with pytest.raises(ImageError, match="another build runs in"), store.staging("compute"):
            pass
        with pytest.raises(ImageError, match="another build runs in"):
            delete(store, image.version)
    publish(store)


def test_old_versions_can_be_deleted_and_the_last_one_too(store: ImageStore) -> None:
    first, second = publish(store), publish(store, kernel=b"newer")
    with pytest.raises(ImageError, match=f"version {second.version} is what nodes get"):
        delete(store, second.version)
    delete(store, first.version)
    assert store.versions("failsafe") == [second]
    with pytest.raises(ImageError, match="has no version"):
        delete(store, first.version)
    delete(store, second.version)
    assert visible(store) == []


def test_an_image_can_be_deleted_as_a_whole(store: ImageStore) -> None:
    publish(store, name="compute")
    before = visible(store)
    publish(store), publish(store, kernel=b"newer")
    with store.changing():
        store.delete_all("failsafe")
        assert visible(store) == before
        with pytest.raises(ImageError, match="'failsafe' is not built"):
            store.delete_all("failsafe")


def test_what_a_cache_still_has_is_not_freed(store: ImageStore, tmp_path: Path) -> None:
    old = publish(store, kernel=b"k" * 1000)
    publish(store)
    whole = sum(file.stat().st_size for file in old.folder.iterdir())
    (tmp_path / "cached").hardlink_to(old.folder / "vmlinuz")
    assert delete(store, old.version) == whole - 1000


def test_current_may_point_nowhere(store: ImageStore) -> None:
    image = publish(store)
    (image.folder.parent / "current").unlink()
    assert store.current_name("failsafe") is None
    with pytest.raises(ImageError, match="is not built"):
        store.current("failsafe")
    (image.folder.parent / "current").symlink_to("0" * 16)
    with pytest.raises(ImageError, match="has no version"):
        store.current("failsafe")
    assert roll_back(store, image.version) == store.current("failsafe")
    delete(store, image.version)


def test_a_reader_follows_current_when_it_moves(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version that the link named is gone by the time its manifest is read."""
    first, second = publish(store), publish(store, kernel=b"newer")
    delete(store, first.version)
    read = iter([first.version])
    monkeypatch.setattr(store, "current_name", lambda _name: next(read, second.version))
    assert store.current("failsafe") == second


# Going back


def test_rollback_goes_back_one_version_each_time(store: ImageStore) -> None:
    first, second, third = (publish(store, kernel=kernel) for kernel in (b"1", b"2", b"3"))
    assert store.past("failsafe") == [second.version, first.version]
    assert roll_back(store) == store.current("failsafe") == second
    assert roll_back(store) == store.current("failsafe") == first
    before = visible(store)
    with pytest.raises(ImageError, match="no version of 'failsafe' that is still there was") as e:
        roll_back(store)
    assert third.version in str(e.value)
    assert (visible(store), store.current("failsafe")) == (before, first)


def test_what_was_rolled_back_from_is_not_gone_back_to(store: ImageStore) -> None:
    first, second = publish(store, kernel=b"1"), publish(store, kernel=b"2")
    roll_back(store)
    third = publish(store, kernel=b"3")
    assert store.past("failsafe") == [first.version]
    assert second.version not in (store.current("failsafe").version, *store.past("failsafe"))
    assert roll_back(store) == first
    assert third.version != second.version


def test_a_version_can_be_named_and_that_undone(store: ImageStore) -> None:
    first, second, third = (publish(store, kernel=kernel) for kernel in (b"1", b"2", b"3"))
    assert roll_back(store, first.version) == store.current("failsafe") == first
    assert roll_back(store) == third
    assert roll_back(store) == second
    with pytest.raises(ImageError, match=r"has no version 0{16}"):
        roll_back(store, "0" * 16)
    assert roll_back(store, second.version) == second


def test_publishing_what_is_there_is_remembered_too(store: ImageStore) -> None:
    first, second = publish(store, kernel=b"1"), publish(store, kernel=b"2")
    publish(store, kernel=b"1")
    assert store.past("failsafe") == [second.version]
    publish(store, kernel=b"1")
    assert store.past("failsafe") == [second.version]
    assert roll_back(store) == second
    assert first.version


def test_a_deleted_version_is_passed_over(store: ImageStore) -> None:
    first, second, _ = (publish(store, kernel=kernel) for kernel in (b"1", b"2", b"3"))
    delete(store, second.version)
    assert roll_back(store) == first


@pytest.mark.parametrize("damage", [None, b"", b"\xff\xfe", b"nonsense\n../..\n"])
def test_without_a_readable_history_a_version_can_be_named(
    store: ImageStore, damage: bytes | None
) -> None:
    first, second = publish(store, kernel=b"1"), publish(store, kernel=b"2")
    history = first.folder.parent / "history"
    history.unlink()
    if damage is not None:
        history.write_bytes(damage)
    with pytest.raises(ImageError, match="name one"):
        roll_back(store)
    roll_back(store, first.version)
    assert roll_back(store) == second


def test_an_image_that_is_not_built_cannot_go_back(store: ImageStore) -> None:
    with pytest.raises(ImageError, match="is not built"):
        roll_back(store)
    with pytest.raises(ImageError, match="has no version"):
        roll_back(store, "0" * 16)


def test_a_disk_that_refuses_is_named(store: ImageStore) -> None:
    store.folder.parent.mkdir()
    store.folder.write_text("in the way")
    with pytest.raises(ImageError, match=r"images cannot be changed: .*images"), store.changing():
        pass


def test_who_may_not_change_images_is_told_who_may(store: ImageStore) -> None:
    wanted = r"Permission denied \(x\): run this as root$"
    with pytest.raises(ImageError, match=wanted), store.changing():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "x")


def test_a_tree_has_one_hash_for_one_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub/file").write_text("x")
        (tmp_path / name / "link").symlink_to("sub")
    first = hash_tree(tmp_path / "a")
    assert first == hash_tree(tmp_path / "b")
    (tmp_path / "b/sub/file").chmod(0o755)
    changed = hash_tree(tmp_path / "b")
    assert changed != first
    (tmp_path / "b/link").unlink()
    assert hash_tree(tmp_path / "b") != changed
    assert hash_tree(tmp_path / "a", tmp_path / "b") != first
