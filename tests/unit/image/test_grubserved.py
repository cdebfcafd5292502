"""What GRUB gets by TFTP, and what the journal makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from bootnode.addresses import MacAddress
from bootnode.boot.client import Speaker
from bootnode.boot.journal import Journal
from bootnode.boot.plan import Policy, Site
from bootnode.files import OpenFile
from bootnode.image.grubserved import GrubFiles
from bootnode.image.served import CurrentImages
from bootnode.image.store import Contents, ImageStore, ImageVersion, Provenance
from bootnode.nodes import Boot, Loader, Node, NodeTable

MAC = MacAddress.parse("52:54:00:12:34:56")
ADDRESS = IPv4Address("10.77.0.9")
OTHER = IPv4Address("10.77.0.10")
SITE = Site(address=IPv4Address("10.77.0.1"), http_port=8080)
OWN = f"/boot/{MAC}.grub"


@dataclass
class Bench:
    """One node that has an address and boots by GRUB."""

    files: GrubFiles
    policy: Policy
    journal: Journal
    store: ImageStore
    version: ImageVersion
    delivered: list[MacAddress] = field(default_factory=list)

    @property
    def stages(self) -> list[str]:
        record = self.journal.get(MAC)
        assert record is not None
        assert record.boot is not None
        return list(record.boot.stages)

    def path(self, file: str) -> str:
        return f"/images/failsafe/{self.version.version}/{file}"

    def read(self, name: str, peer: IPv4Address = ADDRESS) -> str:
        source = self.files.open(name, peer, SITE)
        assert source is not None
        content = source.read(0, source.size)
        source.close()
        return content.decode()

    def fetch(self, name: str) -> None:
        self.read(name)
        assert self.files.deliver(name, MAC)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    store = ImageStore(tmp_path)
    with store.staging("failsafe") as folder:
        staged = folder / "files"
        staged.mkdir()
        for name in ("vmlinuz", "initrd.img", "root.img", "stub"):
            (staged / name).write_text(name)
        contents = Contents(
            kernel="vmlinuz",
            initrds=("initrd.img", "root.img"),
            kernel_release="6.1",
            ram_bytes=1,
            stub="stub",
        )
        version = store.publish(
            "failsafe", staged, contents, Provenance(recipe_sha256="", packages={})
        )
    node = Node(
        name="n1",
        macs=(MAC,),
        addresses={},
        image="failsafe",
        kernel_args=(),
        boot=Boot.NETWORK,
        boot_file=None,
        vars={},
        loader=Loader.GRUB,
    )
    policy = Policy(table=NodeTable((node,)), loaders=frozenset(), images=CurrentImages(store))
    journal, delivered = Journal(), list[MacAddress]()
    journal.discover(MAC, Speaker.FIRMWARE, now=1.0)
    journal.locate(MAC, ADDRESS, now=1.0)
    files = GrubFiles(
        policy=policy,
        journal=journal,
        images=store,
        clock=lambda: 2.0,
        on_delivered=delivered.append,
    )
    return Bench(files, policy, journal, store, version, delivered)


def test_a_boot_from_the_first_file_to_the_last(bench: Bench) -> None:
    assert "$net_default_mac.grub" in bench.read("/grub/grub.cfg")
    assert not bench.files.deliver("/grub/grub.cfg", MAC)  # a loader's file as any other
    assert f"linux '{bench.path('vmlinuz')}'" in bench.read(OWN)
    assert bench.files.deliver(OWN, MAC)
    assert bench.stages == ["discover", "script"]
    bench.fetch(bench.path("vmlinuz"))
    bench.fetch(bench.path("initrd.img"))
    assert (bench.stages, bench.delivered) == (["discover", "script", "kernel"], [])
    bench.fetch(bench.path("root.img"))
    assert (bench.stages[-1], bench.delivered) == ("initrd", [MAC])
    record = bench.journal.get(MAC)
    assert record is not None
    assert record.boot is not None
    assert record.boot.image == f"failsafe/{bench.version.version}"


def test_kernels_are_read_from_disk(bench: Bench) -> None:
    source = bench.files.open(bench.path("vmlinuz"), ADDRESS, SITE)
    assert isinstance(source, OpenFile)
    source.close()


def test_another_machine_moves_nothing_in_the_journal(bench: Bench) -> None:
    bench.read(OWN, OTHER)
    bench.read(bench.path("vmlinuz"), OTHER)
    assert bench.stages == ["discover"]


def test_a_node_that_waits_says_why(bench: Bench) -> None:
    bench.policy.images = lambda name: f"image '{name}' is not built"
    assert bench.read(OWN) == "echo 'bootnode: n1 waits: image '\\''failsafe'\\'' is not built'\n"
    assert bench.stages == ["discover", "failed"]


def test_a_node_without_an_image_and_a_stranger_wait(bench: Bench) -> None:
    bench.policy.table = NodeTable()
    assert "waits: 52:54:00:12:34:56 is not in the node table" in bench.read(OWN)


def test_a_spent_boot_is_from_the_disk(bench: Bench) -> None:
    (node,) = bench.policy.table
    bench.policy.table = NodeTable((replace(node, boot=Boot.ONCE),))
    assert "linux" in bench.read(OWN)
    bench.policy.spent.add(("n1", "failsafe"))
    assert "boots from its local disk" in bench.read(OWN)


@pytest.mark.parametrize(
    "name", ["/grub/arm64-efi/command.lst", "grubnetaa64.efi.signed", "/boot/x.grub", ""]
)
def test_what_is_not_grubs(bench: Bench, name: str) -> None:
    assert bench.files.open(name, ADDRESS, SITE) is None
    assert not bench.files.deliver(name, MAC)


@pytest.mark.parametrize(
    "name",
    [
        "/images/failsafe/0000000000000000/vmlinuz",
        "/images/../0123/vmlinuz",
        "/images/{}/vmlinuz",
    ],
)
def test_images_that_are_not_there(bench: Bench, name: str) -> None:
    with pytest.raises(FileNotFoundError):
        bench.files.open(name.format("nonesuch/" + bench.version.version), ADDRESS, SITE)


@pytest.mark.parametrize("file", ["stub", "manifest.json", "node-files.tar", ".."])
def test_no_other_file_of_an_image_is_served(bench: Bench, file: str) -> None:
    with pytest.raises(FileNotFoundError, match="no kernel and no ramdisk"):
        bench.files.open(bench.path(file), ADDRESS, SITE)


def test_a_version_that_was_deleted_meanwhile(bench: Bench) -> None:
    assert bench.files.deliver("/images/failsafe/0000000000000000/vmlinuz", MAC)
    assert bench.stages == ["discover"]
