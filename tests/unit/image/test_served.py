"""Unified kernel images for one node: what is in them, and who gets them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

import pefile
import pytest

from bootnode.addresses import MacAddress
from bootnode.boot.client import Speaker
from bootnode.boot.journal import Journal
from bootnode.boot.plan import ImageFiles, Policy, Site, UnifiedPath
from bootnode.image.served import CurrentImages, UnifiedImages, current_files
from bootnode.image.store import Contents, ImageStore, ImageVersion, Provenance
from bootnode.nodes import Boot, Loader, Node, NodeTable

MAC = MacAddress.parse("52:54:00:12:34:56")
STRANGER = MacAddress.parse("02:00:00:00:00:99")
ADDRESS = IPv4Address("10.77.0.9")
OTHER = IPv4Address("10.77.0.10")
SITE = Site(address=IPv4Address("10.77.0.1"), http_port=8080)
STUB = "linuxx64.efi.stub"
FILES = {"vmlinuz": b"the kernel" * 999, "initrd.img": b"init!", "root.cpio": b"root"}


def node(kernel_args: tuple[str, ...] = ("quiet",), boot: Boot = Boot.NETWORK) -> Node:
    return Node(
        name="n1",
        macs=(MAC,),
        addresses={},
        image="failsafe",
        kernel_args=kernel_args,
        boot=boot,
        boot_file=None,
        vars={},
        loader=Loader.UKI,
    )


def publish(store: ImageStore, stub: bytes | None) -> ImageVersion:
    with store.staging("failsafe") as folder:
        staged = folder / "files"
        staged.mkdir()
        for name, content in {**FILES, **({STUB: stub} if stub is not None else {})}.items():
            (staged / name).write_bytes(content)
        return store.publish(
            "failsafe",
            staged,
            Contents(
                kernel="vmlinuz",
                initrds=("initrd.img", "root.cpio"),
                kernel_args=("console=ttyS0",),
                kernel_release="6.1",
                ram_bytes=1,
                loader=Loader.UKI,
                stub=STUB if stub is not None else None,
            ),
            Provenance(recipe_sha256="", packages={}),
        )


@dataclass
class Bench:
    """Unified kernel images of one node that has an address."""

    unified: UnifiedImages
    policy: Policy
    journal: Journal
    store: ImageStore
    path: UnifiedPath
    delivered: list[MacAddress] = field(default_factory=list)

    @property
    def stages(self) -> list[str]:
        record = self.journal.get(MAC)
        assert record is not None
        if record.boot is None:
            return []
        return [*(stage.value for stage in record.boot.stages), record.boot.detail]


def bench_with(folder: Path, stub: bytes | None) -> Bench:
    store, journal = ImageStore(folder / "images"), Journal()
    version = publish(store, stub)
    policy = Policy(table=NodeTable((node(),)), loaders=frozenset())
    delivered: list[MacAddress] = []
    unified = UnifiedImages(
        policy=policy,
        journal=journal,
        images=store,
        clock=lambda: 1.0,
        on_delivered=delivered.append,
    )
    journal.locate(MAC, ADDRESS, now=1.0)
    path = UnifiedPath(mac=MAC, version=version.version)
    return Bench(unified, policy, journal, store, path, delivered)


@pytest.fixture
def bench(tmp_path: Path, stub: Callable[..., bytes]) -> Bench:
    return bench_with(tmp_path, stub())


def test_everything_of_the_node_is_in_one_file(bench: Bench) -> None:
    content = bench.unified.open(bench.path, ADDRESS, SITE)
    data = content.read(0, content.size)
    assert len(data) == content.size
    found = {
        section.Name.rstrip(b"\0").decode(): section.get_data()[: section.Misc_VirtualSize]
        for section in pefile.PE(data=data).sections
    }
    version = bench.path.version
    assert found[".cmdline"].decode() == (
        f"bootnode.server=http://10.77.0.1:8080 bootnode.node=n1 bootnode.image=failsafe/{version} "
        "BOOTIF=01-52-54-00-12-34-56 console=ttyS0 quiet"
    )
    assert found[".linux"] == FILES["vmlinuz"]
    assert found[".initrd"] == b"init!\0\0\0root"
    assert found[".uname"] == b"6.1"
    assert f"failsafe {version}".encode() in found[".osrel"]
    content.close()


def test_other_arguments_are_another_content_as_long(bench: Bench) -> None:
    one = bench.unified.open(bench.path, ADDRESS, SITE)
    bench.policy.table = NodeTable((node(("quiet", "debug")),))
    other = bench.unified.open(bench.path, ADDRESS, SITE)
    again = bench.unified.open(bench.path, ADDRESS, SITE)
    assert one.size == other.size
    assert one.tag != other.tag
    assert other.tag == again.tag
    for content in (one, other, again):
        content.close()


@pytest.mark.parametrize("peer", [OTHER, IPv4Address("127.0.0.1"), None])
def test_only_the_node_itself_gets_it(bench: Bench, peer: IPv4Address | None) -> None:
    with pytest.raises(PermissionError, match=f"is for {MAC} only, and {peer} is not its address"):
        bench.unified.open(bench.path, peer, SITE)
    assert bench.stages == []


def test_stages_from_the_first_request_to_delivery(bench: Bench) -> None:
    bench.journal.discover(MAC, Speaker.FIRMWARE, now=1.0)
    bench.unified.open(bench.path, ADDRESS, SITE).close()
    image = f"failsafe/{bench.path.version}"
    boot = bench.journal.get(MAC).boot  # type: ignore[union-attr]  # it has one
    assert boot is not None
    assert (boot.image, boot.stage.value) == (image, "loader")
    assert bench.delivered == []
    bench.unified.deliver(bench.path)
    assert bench.stages == ["discover", "loader", "kernel", "initrd", image]
    assert bench.delivered == [MAC]


def test_a_version_stays_what_it_was_when_another_is_published(
    bench: Bench, stub: Callable[..., bytes]
) -> None:
    publish(bench.store, stub(sections=3))
    assert bench.store.current("failsafe").version != bench.path.version
    content = bench.unified.open(bench.path, ADDRESS, SITE)
    assert bench.path.version.encode() in content.read(0, content.size)
    content.close()


def test_a_version_that_is_gone(bench: Bench) -> None:
    path = UnifiedPath(mac=MAC, version="0" * 16)
    with pytest.raises(FileNotFoundError, match="image 'failsafe' has no version 0000"):
        bench.unified.open(path, ADDRESS, SITE)
    assert bench.stages == ["failed", "image 'failsafe' has no version 0000000000000000"]


def test_a_machine_outside_the_table(bench: Bench) -> None:
    path = UnifiedPath(mac=STRANGER, version=bench.path.version)
    with pytest.raises(FileNotFoundError, match=f"{STRANGER} has no image"):
        bench.unified.open(path, OTHER, SITE)


def test_a_node_that_was_sent_to_its_disk(bench: Bench) -> None:
    bench.policy.table = NodeTable((node(boot=Boot.LOCAL),))
    with pytest.raises(FileNotFoundError, match="n1 boots from its local disk"):
        bench.unified.open(bench.path, ADDRESS, SITE)


@pytest.mark.parametrize(
    ("stub_bytes", "reason"),
    [(None, "has no UEFI stub for `loader: uki`"), (b"MZ", "not a UEFI stub: it is cut short")],
)
def test_an_image_without_a_stub_of_use(
    tmp_path: Path, stub_bytes: bytes | None, reason: str
) -> None:
    bench = bench_with(tmp_path, stub_bytes)
    with pytest.raises(FileNotFoundError, match=reason):
        bench.unified.open(bench.path, ADDRESS, SITE)
    assert bench.stages[0] == "failed"


def test_too_many_arguments_leave_nothing_open(bench: Bench) -> None:
    bench.policy.table = NodeTable((node(("x" * 2048,)),))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError, match="shorten `kernel_args`"):
        bench.unified.open(bench.path, ADDRESS, SITE)
    assert len(os.listdir("/proc/self/fd")) == before


def test_images_as_decisions_need_them(bench: Bench) -> None:
    found = current_files(bench.store, "failsafe")
    assert isinstance(found, ImageFiles)
    assert (found.loader, found.stub, found.kernel_release) == (Loader.UKI, STUB, "6.1")
    assert str(current_files(bench.store, "other")).startswith("image 'other' is not built")


def test_a_new_version_is_found_soon_and_each_one_read_once(bench: Bench) -> None:
    times = iter((0.0, 0.05, 0.2, 0.25, 0.4, 0.5))
    find = CurrentImages(bench.store, lambda: next(times))
    first = find("failsafe")
    assert isinstance(first, ImageFiles)
    assert find("failsafe") is find("failsafe") is first
    second = publish(bench.store, b"")
    assert find("failsafe") is first  # for 0.1 s it is not looked at again
    found = find("failsafe")
    assert isinstance(found, ImageFiles)
    assert found.version == second.version != first.version
    assert "is not built" in str(find("other"))


def test_an_image_that_went_away_is_found_no_more(bench: Bench) -> None:
    times = iter((0.0, 0.2))
    find = CurrentImages(bench.store, lambda: next(times))
    assert isinstance(find("failsafe"), ImageFiles)
    bench.store.current_link("failsafe").unlink()
    assert "is not built" in str(find("failsafe"))
    assert isinstance(current_files(bench.store, "failsafe"), str)
