"""The web server on loopback: scripts, files, reports, and what clients and strangers may try."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector, web
from aiohttp.test_utils import TestClient, TestServer

from bootnode.addresses import MacAddress
from bootnode.boot.journal import Journal, Record, Stage
from bootnode.boot.nodefiles import NodeFile, NodeNetwork, archive
from bootnode.boot.plan import LOADER_NAMES, Policy
from bootnode.boot.usage import image_usage
from bootnode.config import NetworkSettings
from bootnode.files import FileRoots
from bootnode.image import cpio, nodefiles
from bootnode.image.served import UnifiedImages
from bootnode.image.store import Contents, ImageStore, Provenance, RootFile
from bootnode.nodekeys import StandInKeys
from bootnode.nodes import Boot, Node, NodeTable
from bootnode.web import app
from bootnode.web.app import REPORT_MAX_BYTES, WebApp
from bootnode.web.nodefiles import NodeFiles

MAC = MacAddress.parse("52:54:00:12:34:56")
OTHER = MacAddress.parse("52:54:00:12:34:57")
STRANGER = MacAddress.parse("02:00:00:00:00:99")
ADDRESS = IPv4Address("10.77.0.10")
NOW = 1_700_000_000.0
PEER = "X-Test-Peer"
"""The address that a request of these tests comes from: on loopback nobody is a node."""
SECRET = b"not for nodes"
INITRD = bytes(range(256)) * 100

Client = TestClient[web.Request, web.Application]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Watch:
    """Pretends where requests come from, and knows when they have been dealt with."""

    under_way: int = 0

    @web.middleware
    async def observe(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if PEER in request.headers:
            request = request.clone(remote=request.headers[PEER])
        self.under_way += 1
        try:
            return await handler(request)
        finally:
            self.under_way -= 1

    async def wait_idle(self) -> None:
        """A client has the last byte before the server has done with the request."""
        async with asyncio.timeout(10):
            while self.under_way:
                await asyncio.sleep(0)


def node(name: str, mac: MacAddress, **changes: object) -> Node:
    plain = Node(
        name=name,
        macs=(mac,),
        addresses={},
        image="failsafe",
        kernel_args=("quiet",),
        boot=Boot.NETWORK,
        boot_file=None,
        vars={},
    )
    return replace(plain, **changes)  # type: ignore[arg-type]  # test values by name


@dataclass(slots=True, kw_only=True)
class Site:
    """A web server with one image, loaders and a folder of the user's."""

    client: Client
    http: WebApp
    node_files: NodeFiles
    unified: UnifiedImages
    policy: Policy
    journal: Journal
    store: ImageStore
    folder: Path
    watch: Watch
    delivered: list[MacAddress] = field(default_factory=list)

    @property
    def url(self) -> str:
        return str(self.client.make_url("")).rstrip("/")

    @property
    def image(self) -> str:
        """`failsafe/VERSION`."""
        return f"failsafe/{self.store.current('failsafe').version}"

    async def raw(self, *parts: bytes) -> bytes:
        """Send bytes, each part in a packet of its own, and read until the server closes."""
        port = self.client.port
        assert port is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.02)
        data = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await writer.wait_closed()
        return data

    async def get_raw(self, target: str, *headers: str) -> bytes:
        lines = [f"GET {target} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]
        return await self.raw("\r\n".join(lines).encode("latin-1"))

    def record(self, mac: MacAddress = MAC) -> Record:
        record = self.journal.get(mac)
        assert record is not None
        return record

    async def read(self, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        """Status and body of a GET that the server has done with."""
        async with self.client.get(path, headers=headers) as response:
            body = await response.read()
        await self.watch.wait_idle()
        return response.status, body

    def stages(self, mac: MacAddress = MAC) -> list[str]:
        """The stages that the node's boot has reached, and what the last said."""
        record = self.journal.get(mac)
        if record is None or record.boot is None:
            return []
        return [*(stage.value for stage in record.boot.stages), record.boot.detail]


def publish(
    store: ImageStore,
    initrd: bytes = INITRD,
    root: RootFile | None = None,
    node_files: Mapping[str, str] | None = None,
    stub: bytes | None = None,
) -> None:
    with store.staging("failsafe") as folder:
        staged = folder / "files"
        staged.mkdir()
        (staged / "vmlinuz").write_bytes(b"kernel")
        (staged / "initrd.img").write_bytes(initrd)
        (staged / "root.tar.gz").write_bytes(b"compressed")
        if node_files is not None:
            entries = [cpio.file(path, text.encode()) for path, text in node_files.items()]
            nodefiles.write(entries, staged / nodefiles.FILE)
        if stub is not None:
            (staged / "linuxx64.efi.stub").write_bytes(stub)
        store.publish(
            "failsafe",
            staged,
            Contents(
                kernel="vmlinuz",
                initrds=("initrd.img",),
                kernel_args=("console=ttyS0",),
                kernel_release="6.1",
                ram_bytes=1,
                root=root,
                node_files=nodefiles.FILE if node_files is not None else None,
                stub="linuxx64.efi.stub" if stub is not None else None,
            ),
            Provenance(recipe_sha256="", packages={}),
        )


def files_of_nodes(policy: Policy) -> NodeFiles:
    settings = NetworkSettings(interface="eth1", dhcp="full")
    network = NodeNetwork(
        server=IPv4Address("10.77.0.1"),
        subnet=IPv4Network("10.77.0.0/24"),
        http_port=8080,
        settings=settings,
    )
    return NodeFiles(policy=policy, networks=[network], keys=StandInKeys())


def make_files(folder: Path) -> None:
    (folder / "secret").write_bytes(SECRET)
    loaders, own = folder / "loaders", folder / "own"
    loaders.mkdir()
    (loaders / "undionly.kpxe").write_bytes(b"bios loader")
    (loaders / "snponly.efi").write_bytes(b"uefi loader")
    (loaders / "ipxe.pxe").symlink_to(folder / "secret")
    (loaders / "other.efi").write_bytes(b"no loader of ours")
    (own / "sub").mkdir(parents=True)
    (own / "sub" / "a b.txt").write_bytes(b"own file")
    (own / "x").write_bytes(b"plain")
    (own / "x.gz").write_bytes(b"another file")
    (own / ".hidden").write_bytes(SECRET)
    (own / "out").symlink_to(folder / "secret")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    make_files(tmp_path)
    store = ImageStore(tmp_path / "images")
    publish(store)
    table = NodeTable((node("n1", MAC), node("n2", OTHER, image="missing")))
    policy, journal = Policy(table=table, loaders=LOADER_NAMES), Journal()
    delivered: list[MacAddress] = []
    node_files = files_of_nodes(policy)
    unified = UnifiedImages(
        policy=policy,
        journal=journal,
        images=store,
        clock=lambda: NOW,
        on_delivered=delivered.append,
    )
    http = WebApp(
        policy=policy,
        journal=journal,
        images=store,
        unified=unified,
        roots=FileRoots([tmp_path / "loaders"]),
        files=tmp_path / "own",
        clock=lambda: NOW,
        on_delivered=delivered.append,
        node_files=node_files,
        counters={"tftp": {"sent": 3}},
    )
    watch = Watch()
    http.app.middlewares.insert(0, watch.observe)
    async with TestClient(TestServer(http.app)) as client:
        yield Site(
            client=client,
            http=http,
            node_files=node_files,
            unified=unified,
            policy=policy,
            journal=journal,
            store=store,
            folder=tmp_path,
            watch=watch,
            delivered=delivered,
        )
    node_files.close()


@asynccontextmanager
async def served(site: Site, path: Path) -> AsyncIterator[None]:
    """The same on a Unix socket, by the runner that the daemon uses."""
    runner = web.AppRunner(site.http.app, access_log=None, logger=site.http.protocol_log)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    try:
        yield
    finally:
        await runner.cleanup()


def at(address: IPv4Address | str) -> dict[str, str]:
    return {PEER: str(address)}


# Boot scripts


async def test_script_of_a_node(site: Site) -> None:
    site.journal.locate(MAC, ADDRESS, now=NOW)
    response = await site.client.get("/boot/52-54-00-12-34-56.ipxe", headers=at(ADDRESS))
    assert response.status == 200
    text = await response.text()
    assert text.startswith(f"#!ipxe\necho bootnode: n1 boots {site.image.replace('/', ' ')}\n")
    # The server names itself by the address that was asked.
    assert f"kernel --name vmlinuz {site.url}/images/{site.image}/vmlinuz " in text
    assert f" bootnode.server={site.url} " in text
    assert " console=ttyS0 quiet || goto again" in text
    assert site.stages() == ["script", site.image]
    boot = site.record().boot
    assert boot is not None
    assert boot.image == site.image


@pytest.mark.parametrize("spelling", ["52:54:00:12:34:56", "525400123456", "01-52-54-00-12-34-56"])
async def test_script_by_any_spelling_of_the_mac(site: Site, spelling: str) -> None:
    response = await site.client.get(f"/boot/{spelling}.ipxe")
    assert "n1 boots failsafe" in await response.text()


@pytest.mark.parametrize(
    ("fetch", "file", "place"),
    [
        ("init", "root.tar.gz", "bootnode.root_url={base}/root.tar.gz"),
        ("ramdisk", "/root.erofs", "bootnode.root_file=/root.erofs"),
    ],
)
async def test_script_of_a_node_with_a_root_file_system(
    site: Site, fetch: str, file: str, place: str
) -> None:
    sha256 = hashlib.sha256(b"compressed").hexdigest()
    root = RootFile(
        format="erofs", fetch=fetch, file=file, size_bytes=10, sha256=sha256, ram_bytes=4096
    )
    publish(site.store, root=root)
    response = await site.client.get("/boot/52-54-00-12-34-56.ipxe", headers=at(ADDRESS))
    version = site.store.current("failsafe").version
    base = f"{site.url}/images/failsafe/{version}"
    kernel = next(line for line in (await response.text()).splitlines() if "kernel" in line)
    found = [word for word in kernel.split() if word.startswith("bootnode.root")]
    assert found == [
        "bootnode.root=erofs",
        "bootnode.root_ram=4096",
        place.format(base=base),
        f"bootnode.root_sha256={sha256}",
        "bootnode.root_size=10",
    ]
    if fetch == "init":
        path = f"/images/failsafe/{version}/{file}"
        assert await (await site.client.get(path, headers=at(ADDRESS))).read() == b"compressed"


@pytest.mark.parametrize(
    ("mac", "reason"),
    [
        (OTHER, "n2 waits: image 'missing' is not built: run `bootnode image build missing`"),
        (STRANGER, "unknown waits: 02:00:00:00:00:99 is not in the node table"),
    ],
)
async def test_what_cannot_boot_gets_a_script_that_waits(
    site: Site, mac: MacAddress, reason: str
) -> None:
    """An error status would leave the node at a dead prompt."""
    response = await site.client.get(f"/boot/{mac.hyphenated}.ipxe", headers=at(ADDRESS))
    assert response.status == 200
    text = await response.text()
    assert text.splitlines()[:3] == ["#!ipxe", f"echo bootnode: {reason}", ":anew"]
    assert f"chain --replace --autofree {site.url}/boot/{mac.hyphenated}.ipxe" in text
    assert site.stages(mac) == ["failed", reason.partition("waits: ")[2]]


async def test_an_image_for_other_machines_is_said_on_the_screen(site: Site) -> None:
    path = "/boot/52-54-00-12-34-56.ipxe"
    response = await site.client.get(f"{path}?machine=arm64", headers=at(ADDRESS))
    reason = "image 'failsafe' is for amd64, and this machine is arm64: give n1 an image for arm64"
    assert (await response.text()).splitlines()[1] == f"echo bootnode: n1 waits: {reason}"
    assert site.stages(MAC) == ["failed", reason]
    usual = await (await site.client.get(path)).text()
    for fits in ("amd64", "x%0Ashell"):
        assert await (await site.client.get(f"{path}?machine={fits}")).text() == usual


async def test_a_node_that_never_had_an_image_waits(site: Site) -> None:
    site.policy.table = NodeTable((node("n1", MAC, image=None, boot_file="x.efi"),))
    response = await site.client.get("/boot/52-54-00-12-34-56.ipxe")
    assert "n1 waits: the node has no image" in await response.text()


async def test_script_for_the_local_disk(site: Site) -> None:
    site.policy.table = NodeTable((node("n1", MAC, boot=Boot.ONCE),))
    site.policy.spent.add(("n1", "failsafe"))
    response = await site.client.get("/boot/52-54-00-12-34-56.ipxe", headers=at(ADDRESS))
    assert "n1 boots from its local disk" in await response.text()
    assert site.stages() == ["script", "local disk"]


async def test_only_the_node_itself_moves_its_stages(site: Site) -> None:
    """Anybody may look at a script; from another address it says nothing about the node."""
    site.journal.locate(MAC, ADDRESS, now=NOW)
    for headers in ({}, at("10.77.0.66"), at("127.0.0.1")):
        response = await site.client.get("/boot/52-54-00-12-34-56.ipxe", headers=headers)
        assert response.status == 200
    assert (await site.client.head("/boot/52-54-00-12-34-56.ipxe", headers=at(ADDRESS))).ok
    assert site.stages() == []


async def test_a_node_seen_for_the_first_time_is_believed(site: Site) -> None:
    await site.client.get("/boot/52-54-00-12-34-56.ipxe", headers=at(ADDRESS))
    assert site.journal.at(ADDRESS) == MAC
    # Now the address is taken: who asks for another node from it is not that node.
    await site.client.get("/boot/52-54-00-12-34-57.ipxe", headers=at(ADDRESS))
    assert site.stages(OTHER) == []


async def test_no_mac_no_script(site: Site) -> None:
    assert (await site.client.get("/boot/nonsense.ipxe")).status == 404


# Image files


async def test_image_file_and_its_head(site: Site) -> None:
    url = f"/images/{site.image}/initrd.img"
    response = await site.client.get(url)
    assert (response.status, await response.read()) == (200, INITRD)
    head = await site.client.head(url)
    assert (head.status, await head.read()) == (200, b"")
    for name in ("Content-Length", "Content-Type", "ETag", "Last-Modified", "Accept-Ranges"):
        assert head.headers[name] == response.headers[name]
    assert response.headers["Content-Length"] == str(len(INITRD))
    assert "Content-Encoding" not in response.headers


@pytest.mark.parametrize(
    ("range_", "part", "content_range"),
    [
        ("bytes=0-4", INITRD[:5], "bytes 0-4/25600"),
        ("bytes=25000-", INITRD[25000:], "bytes 25000-25599/25600"),
        ("bytes=-100", INITRD[-100:], "bytes 25500-25599/25600"),
        ("bytes=25000-99999", INITRD[25000:], "bytes 25000-25599/25600"),
    ],
    ids=["first", "from", "last", "beyond"],
)
async def test_range(site: Site, range_: str, part: bytes, content_range: str) -> None:
    url = f"/images/{site.image}/initrd.img"
    response = await site.client.get(url, headers={"Range": range_})
    assert (response.status, await response.read()) == (206, part)
    assert response.headers["Content-Range"] == content_range
    assert response.headers["Content-Length"] == str(len(part))


async def test_range_beyond_the_end(site: Site) -> None:
    site.journal.locate(MAC, ADDRESS, now=NOW)
    headers = {"Range": "bytes=25600-", **at(ADDRESS)}
    response = await site.client.get(f"/images/{site.image}/initrd.img", headers=headers)
    assert (response.status, response.headers["Content-Range"]) == (416, "bytes */25600")
    assert site.delivered == []


async def test_what_the_client_has_already_is_not_sent_again(site: Site) -> None:
    site.journal.locate(MAC, ADDRESS, now=NOW)
    url = f"/images/{site.image}/initrd.img"
    etag = (await site.client.head(url)).headers["ETag"]
    headers = {"If-None-Match": etag, **at(ADDRESS)}
    assert await site.read(url, headers) == (304, b"")
    assert site.delivered == []
    other = await site.client.get(url, headers={"If-Match": '"other"'})
    assert other.status == 412


@pytest.mark.parametrize(
    ("range_", "is_delivered"),
    [(None, True), ("bytes=100-", True), ("bytes=-5", True), ("bytes=0-100", False)],
)
async def test_when_an_image_counts_as_delivered(
    site: Site, range_: str | None, is_delivered: bool
) -> None:
    site.journal.locate(MAC, ADDRESS, now=NOW)
    headers = at(ADDRESS) | ({"Range": range_} if range_ else {})
    await site.read(f"/images/{site.image}/initrd.img", headers)
    assert site.delivered == ([MAC] if is_delivered else [])
    assert site.stages() == ["script", *(["initrd"] if is_delivered else []), site.image]


async def test_the_kernel_is_a_stage_and_other_files_are_none(site: Site) -> None:
    site.journal.locate(MAC, ADDRESS, now=NOW)
    for name in ("root.tar.gz", "vmlinuz"):
        await site.read(f"/images/{site.image}/{name}", at(ADDRESS))
    assert site.stages() == ["script", "kernel", site.image]
    assert site.delivered == []
    await site.client.head(f"/images/{site.image}/initrd.img", headers=at(ADDRESS))
    assert site.stages() == ["script", "kernel", site.image]


async def test_who_asks_for_a_file_boots_that_version(site: Site) -> None:
    """As after a restart of this server: the script was given before it."""
    site.journal.locate(MAC, ADDRESS, now=NOW)
    await site.read(f"/images/{site.image}/root.tar.gz", at(ADDRESS) | {"Range": "bytes=3-"})
    usage = image_usage(site.policy.table, site.journal, now=NOW)
    assert usage.booting == {site.image: ["n1"]}


@pytest.mark.parametrize("elsewhere", [None, IPv4Address("127.0.0.99")])
async def test_an_address_is_known_by_its_lease_after_a_restart(
    site: Site, elsewhere: IPv4Address | None
) -> None:
    """Unless the node was seen with another one since."""
    site.http._leased_to = {ADDRESS: MAC}.get
    if elsewhere is not None:
        site.journal.locate(MAC, elsewhere, now=NOW)
    await site.read(f"/images/{site.image}/vmlinuz", at(ADDRESS))
    assert site.stages() == (["script", "kernel", site.image] if elsewhere is None else [])
    assert site.record().address == (elsewhere or ADDRESS)


async def test_a_version_that_is_deleted_just_then_is_not_there(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at its manifest and the opening of its file."""
    path = f"/images/{site.image}/initrd.img"
    image = site.store.current("failsafe")
    monkeypatch.setattr(site.store, "load", lambda _name, _version: image)
    shutil.rmtree(image.folder)
    async with site.client.get(path, headers=at(ADDRESS)) as response:
        assert response.status == 404
        assert response.headers["Content-Length"] == "0"


async def test_the_local_disk_takes_no_image(site: Site) -> None:
    await site.client.get("/boot/52-54-00-12-34-56.ipxe", headers=at(ADDRESS))
    site.policy.table = NodeTable((node("n1", MAC, boot=Boot.LOCAL),))
    await site.client.get("/boot/52-54-00-12-34-56.ipxe", headers=at(ADDRESS))
    assert image_usage(site.policy.table, site.journal, now=NOW).booting == {}


async def test_a_version_is_served_whatever_is_published_meanwhile(site: Site) -> None:
    before = site.image
    publish(site.store, initrd=b"newer")
    assert site.image != before
    response = await site.client.get(f"/images/{before}/initrd.img")
    assert await response.read() == INITRD


async def test_what_is_not_there(site: Site) -> None:
    for path in (
        f"/images/{site.image}/nothing",
        f"/images/{site.image}/manifest.json",
        f"/images/{site.image}",
        "/images/failsafe/0000000000000000/vmlinuz",
        "/images/failsafe/current/vmlinuz",
        "/images/none/0000000000000000/vmlinuz",
        "/loaders/secret",
        "/loaders/other.efi",
        "/loaders/ipxe.efi",
        "/files/nothing",
        "/files/",
        "/nothing",
        "/images",
    ):
        response = await site.client.get(path, allow_redirects=False)
        assert (path, response.status) == (path, 404)
    assert (await site.client.post("/healthz")).status == 405


# Files of each node

TEMPLATES = {"etc/hostname.j2": "{{ node.name }}\n", "etc/rack.j2": "{{ vars.rack }}\n"}


def files_path(site: Site, mac: str = "52-54-00-12-34-56") -> str:
    return f"/boot/{mac}/{site.image}/node.cpio"


def give_vars(site: Site, **vars_: object) -> None:
    site.policy.table = NodeTable((node("n1", MAC, vars=vars_), node("n2", OTHER)))


async def test_a_node_gets_files_of_its_own_and_has_its_image_with_them(site: Site) -> None:
    publish(site.store, node_files=TEMPLATES)
    give_vars(site, rack=7)
    site.journal.locate(MAC, ADDRESS, now=NOW)
    script = (await site.read("/boot/52-54-00-12-34-56.ipxe", at(ADDRESS)))[1].decode()
    assert f"\ninitrd --name node.cpio {site.url}{files_path(site)} || goto again\n" in script
    await site.read(f"/images/{site.image}/initrd.img", at(ADDRESS))
    assert (site.stages(), site.delivered) == (["script", site.image], [])
    expected = [cpio.file("etc/hostname", b"n1\n"), cpio.file("etc/rack", b"7\n")]
    body = archive([NodeFile(entry=entry) for entry in expected], mtime=int(NOW))
    head = await site.client.head(files_path(site), headers=at(ADDRESS))
    assert head.headers["Content-Length"] == str(len(body))
    assert site.delivered == []
    assert await site.read(files_path(site), at(ADDRESS)) == (200, body)
    assert site.stages() == ["script", "initrd", site.image]
    assert site.delivered == [MAC]


async def test_files_of_a_node_are_refused_to_others(site: Site) -> None:
    publish(site.store, node_files=TEMPLATES)
    give_vars(site, rack=7)
    site.journal.locate(MAC, ADDRESS, now=NOW)
    site.journal.locate(OTHER, IPv4Address("10.77.0.11"), now=NOW)
    for peer in ("10.77.0.11", "10.77.0.66", "127.0.0.1", "not an address"):
        assert (await site.read(files_path(site), at(peer)))[0] == 403
    assert site.journal.counters["nodefiles.refused"] == 4
    assert site.delivered == []
    # Nor are the templates for anybody.
    assert (await site.read(f"/images/{site.image}/{nodefiles.FILE}", at(ADDRESS)))[0] == 404


async def test_files_that_there_are_none_of(site: Site) -> None:
    site.journal.locate(MAC, ADDRESS, now=NOW)
    assert (await site.read(files_path(site), at(ADDRESS)))[0] == 404
    publish(site.store, node_files=TEMPLATES)
    site.journal.locate(STRANGER, IPv4Address("10.77.0.66"), now=NOW)
    stranger = files_path(site, STRANGER.hyphenated)
    assert (await site.read(stranger, at("10.77.0.66")))[0] == 404
    for path in ("/boot/52-54-00-12-34-56/failsafe/0/node.cpio", "/boot/x/a/b/node.cpio"):
        assert (await site.read(path, at(ADDRESS)))[0] == 404


async def test_a_template_that_fails_holds_that_node_and_no_other(site: Site) -> None:
    publish(site.store, node_files=TEMPLATES)
    rack = node("n2", OTHER, vars={"rack": 8})
    site.policy.table = NodeTable((node("n1", MAC, vars={"room": 1}), rack))
    reason = "its files cannot be made: etc/rack.j2:1: there is no 'rack' (there is: room)"
    site.journal.locate(MAC, ADDRESS, now=NOW)
    script = (await site.read("/boot/52-54-00-12-34-56.ipxe", at(ADDRESS)))[1].decode()
    assert f"\necho bootnode: n1 waits: {reason}\n" in script
    assert site.stages() == ["failed", reason]
    answer = await site.client.get(files_path(site), headers=at(ADDRESS))
    assert (answer.status, answer.reason) == (
        409,
        "etc/rack.j2:1: there is no 'rack' (there is: room)",
    )
    assert [note.text for note in site.record().notes] == [
        "files not made: etc/rack.j2:1: there is no 'rack' (there is: room)"
    ]
    other = (await site.read("/boot/52-54-00-12-34-57.ipxe", at("10.77.0.11")))[1].decode()
    assert "n2 boots failsafe" in other
    assert "node.cpio" in other


async def test_of_many_faults_the_screen_shows_one(site: Site) -> None:
    publish(site.store, node_files={"a.j2": "{{ b }}", **TEMPLATES})
    script = (await site.read("/boot/52-54-00-12-34-56.ipxe", {}))[1].decode()
    assert "cannot be made: a.j2:1: 'b' is undefined (and 1 more: see `bootnode check`)" in script


async def test_files_that_cannot_be_read_hold_the_node(site: Site) -> None:
    publish(site.store, node_files=TEMPLATES)
    file = site.store.current("failsafe").folder / nodefiles.FILE
    file.chmod(0o644)
    file.write_bytes(b"damaged" * 1000)
    script = (await site.read("/boot/52-54-00-12-34-56.ipxe", {}))[1].decode()
    assert f"waits: {file} cannot be read: build the image again" in script


async def test_a_version_published_while_files_are_made_is_the_one_given(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version before may be deleted before anybody knows that a node boots it."""
    publish(site.store, node_files={"etc/old": ""})
    before = site.image
    problem = site.node_files.problem

    async def slow(*arguments: Any) -> str | None:
        if site.image == before:
            publish(site.store, node_files={"etc/new": ""})
        return await problem(*arguments)

    monkeypatch.setattr(site.node_files, "problem", slow)
    script = (await site.read("/boot/52-54-00-12-34-56.ipxe", {}))[1].decode()
    assert site.image != before
    assert f"bootnode.image={site.image} " in script


async def test_a_changed_table_counts_at_once(site: Site) -> None:
    publish(site.store, node_files=TEMPLATES)
    site.journal.locate(MAC, ADDRESS, now=NOW)
    for rack in ("one", "other"):
        give_vars(site, rack=rack)
        assert rack.encode() + b"\n" in (await site.read(files_path(site), at(ADDRESS)))[1]


# Loaders and the user's files


async def test_loader(site: Site) -> None:
    site.journal.locate(MAC, ADDRESS, now=NOW)
    assert await site.read("/loaders/snponly.efi", at(ADDRESS)) == (200, b"uefi loader")
    # UEFI HTTP Boot goes by exactly this.
    head = await site.client.head("/loaders/snponly.efi")
    assert head.headers["Content-Type"] == "application/efi"
    assert site.stages() == ["loader", "snponly.efi"]


async def test_a_loader_that_leads_elsewhere_is_refused(site: Site) -> None:
    response = await site.client.get("/loaders/ipxe.pxe")
    assert (response.status, await response.text()) == (403, "Forbidden\n")


async def test_own_files(site: Site) -> None:
    for path in ("/files/sub/a%20b.txt", "/files//sub/a b.txt", "/files/./sub/a%20b.txt"):
        assert b"own file" in await site.get_raw(path.replace(" ", "%20"))


async def test_no_folder_of_own_files(site: Site) -> None:
    http = WebApp(
        policy=site.policy,
        journal=site.journal,
        images=site.store,
        unified=site.unified,
        roots=FileRoots([]),
        files=None,
        clock=lambda: NOW,
        on_delivered=site.delivered.append,
        node_files=site.node_files,
    )
    async with TestClient(TestServer(http.app)) as client:
        assert (await client.get("/files/x")).status == 404


TRAVERSALS = [
    "/files/../secret",
    "/files/sub/../../secret",
    "/files/..%2fsecret",
    "/files/%2e%2e/secret",
    "/files/%2e%2e%2fsecret",
    "/files/..%5csecret",
    "/files/..\\secret",
    "/files/%252e%252e/secret",
    "/files//../secret",
    "/files/.hidden",
    "/files/sub/%00/../../../secret",
    "/files/x%00.txt",
    "/files/out",
    "/files/%c0%ae%c0%ae/secret",
    "/files/" + "a" * 3000,
    "/../secret",
    "/..//secret",
    "//secret",
    "/loaders/../secret",
    "/loaders/..%2fsecret",
    "/loaders/%2e%2e%2fsecret",
    "/images/../secret",
    "/images/failsafe/../../secret",
    "/images/..%2f..%2fsecret/a/b",
    "/images/../0123456789abcdef/vmlinuz",
    "/images/%2e%2e/%2e%2e/secret",
    "/images/failsafe/VERSION/..%2f..%2f..%2fsecret",
    "/images/failsafe/VERSION/../../../secret",
    "/images/failsafe/VERSION/manifest.json",
    "http://x/../secret",
    "*",
]


@pytest.mark.parametrize("target", TRAVERSALS)
async def test_traversal_in_every_spelling(site: Site, target: str) -> None:
    """Sent as bytes: every client library would tidy these up."""
    target = target.replace("failsafe/VERSION", site.image)
    answer = await site.get_raw(target)
    assert re.match(rb"HTTP/1\.[01] 40[034] ", answer), answer[:100]
    assert SECRET not in answer
    assert str(site.folder).encode() not in answer


# The bytes that clients insist on


async def test_status_line_and_letter_case(site: Site) -> None:
    """iPXE wants the reason phrase, GRUB this very letter case."""
    for target in ("/boot/52-54-00-12-34-56.ipxe", f"/images/{site.image}/vmlinuz", "/healthz"):
        head, _, body = (await site.get_raw(target)).partition(b"\r\n\r\n")
        status, *headers = head.split(b"\r\n")
        assert status == b"HTTP/1.1 200 OK"
        assert b"Content-Length: %d" % len(body) in headers
        for line in headers:
            assert re.match(rb"([A-Z][a-z]*-)*[A-Z][a-z]*: \S", line), line
        assert b"Transfer-Encoding" not in head


async def test_no_content_encoding_whatever_is_asked_for(site: Site) -> None:
    """iPXE takes bodies as they come, and x.gz is not x."""
    for target, body in (
        (f"/images/{site.image}/root.tar.gz", b"compressed"),
        ("/files/x", b"plain"),
        ("/files/x.gz", b"another file"),
    ):
        answer = await site.get_raw(target, "Accept-Encoding: gzip, br, deflate")
        assert answer.endswith(b"\r\n\r\n" + body)
        assert b"ncoding" not in answer


async def test_http_1_0_is_answered_and_closed(site: Site) -> None:
    """U-Boot's wget."""
    answer = await site.raw(f"GET /images/{site.image}/vmlinuz HTTP/1.0\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
    assert b"\r\nContent-Length: 6\r\n" in answer
    assert answer.endswith(b"\r\n\r\nkernel")


async def test_errors_keep_the_connection_usable(site: Site) -> None:
    first = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
    second = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = await site.raw(first, second)
    assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert b"\r\n\r\nNot Found\nHTTP/1.1 200 OK\r\n" in answer


# Reports


async def report(site: Site, text: str | bytes, mac: MacAddress = MAC, **peer: str) -> int:
    headers = at(peer.get("peer", str(ADDRESS)))
    response = await site.client.post(f"/report/{mac.hyphenated}", data=text, headers=headers)
    return response.status


async def test_reports_of_init(site: Site) -> None:
    site.journal.locate(MAC, ADDRESS, now=NOW)
    for line in ("init n1 kernel 6.1", "root n1 tmpfs\n", "up n1"):
        assert await report(site, line) == 200
    assert site.stages() == ["init", "root", "up", ""]
    # That init runs proves that the image arrived, wherever the last of it came from.
    assert site.delivered == [MAC]


async def test_report_of_a_failure(site: Site) -> None:
    assert await report(site, "failed n1 no root: 1\x1b[2J\nsecond line") == 200
    assert site.stages() == ["failed", "no root: 1?[2J?second line"]


@pytest.mark.parametrize(
    "text", ["", "nonsense n1 x", "script n1 x", "UP n1", "up\tn1", b"\xff\xfe\x00", "discover"]
)
async def test_malformed_reports(site: Site, text: str | bytes) -> None:
    assert await report(site, text) == 400
    assert site.journal.counters["report.malformed"] == 1
    assert site.stages() == []


async def test_reports_from_elsewhere_are_refused(site: Site) -> None:
    site.journal.locate(MAC, ADDRESS, now=NOW)
    for peer in ("10.77.0.66", "127.0.0.1", "not an address"):
        assert await report(site, "up n1", peer=peer) == 403
    assert (await site.client.post("/report/nonsense", data="up n1")).status == 404
    assert site.journal.counters["report.refused"] == 3
    assert site.stages() == []


async def test_of_an_oversized_report_only_the_beginning_counts(site: Site) -> None:
    assert await report(site, b"up n1 " + b"x" * 50 * REPORT_MAX_BYTES) == 200
    assert site.stages() == ["up", "x" * 400]


async def test_a_report_in_pieces_is_read_whole(site: Site) -> None:
    """busybox sends the headers first and the body after them."""
    head = (
        "POST /report/52-54-00-12-34-56 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"{PEER}: {ADDRESS}\r\nContent-Length: 14\r\n\r\n"
    )
    answer = await site.raw(head.encode(), b"fai", b"led n1 ", b"why?")
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert site.stages() == ["failed", "why?"]


@pytest.mark.parametrize(
    ("age", "reached"),
    [("12.5", NOW - 12.5), ("0", NOW), ("-1", NOW), ("1e9", NOW), ("nan", NOW), ("soon", NOW)],
)
async def test_a_report_says_how_old_it_is(site: Site, age: str, reached: float) -> None:
    headers = at(ADDRESS) | {"Bootnode-Age": age}
    path = f"/report/{MAC.hyphenated}"
    assert (await site.client.post(path, data="init n1", headers=headers)).status == 200
    boot = site.record().boot
    assert boot is not None
    assert boot.stages == {Stage.INIT: reached}


async def test_a_report_that_never_ends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "REPORT_TIMEOUT_S", 0.01)
    head = (
        "POST /report/52-54-00-12-34-56 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"{PEER}: {ADDRESS}\r\nContent-Length: 14\r\n\r\nup"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", site.client.port)
    writer.write(head.encode())
    assert await asyncio.wait_for(reader.readline(), 10) == b"HTTP/1.1 408 Request Timeout\r\n"
    writer.close()
    await writer.wait_closed()
    assert site.stages() == []


# Looking, logging, failing


async def test_health_and_status(site: Site) -> None:
    response = await site.client.get("/healthz")
    assert await response.json() == {"status": "ok", "nodes": 2}
    site.journal.reach(MAC, Stage.UP, now=NOW)
    status = await (await site.client.get("/api/status")).json()
    assert status["now"] == NOW
    assert [(line["name"], line["stage"]) for line in status["nodes"]] == [
        *(("n1", "up"), ("n2", "-")),
    ]
    assert status["counters"] == {"http.200": 1, "tftp.sent": 3}


async def test_status_page_shows_hostile_words_as_words(site: Site) -> None:
    assert await report(site, "failed n1 <script>alert('x')</script>&\"") == 200
    response = await site.client.get("/")
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    text = await response.text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&amp;&quot;" in text


async def test_a_request_is_one_line_in_the_log(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bootnode.web.app")
    await site.get_raw("/files/%0a%1b[2J%0dforged=line")
    await site.client.get("/healthz")  # the watchdogs of others: at debug level only
    (message,) = caplog.messages
    assert re.fullmatch(
        r"client=127\.0\.0\.1 GET /files/\?\?\[2J\?forged=line status=404 seconds=\d\.\d+",
        message,
    )


@pytest.mark.parametrize(
    "request_",
    [b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"GET /\xff\x1b[2J HTTP/1.1\r\n\r\n"],
    ids=["TLS", "version", "bytes"],
)
async def test_what_is_not_http_costs_one_line(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture, request_: bytes
) -> None:
    async with served(site, tmp_path / "s"):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(request_)
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.0 400 Bad Request")
        writer.close()
        await writer.wait_closed()
        assert (await site.client.get("/healthz")).status == 200
    (message,) = caplog.messages
    assert "malformed request" in message
    assert message.isprintable()
    assert "Traceback" not in caplog.text
    assert site.journal.counters["http.malformed"] == 1


async def test_a_fault_costs_one_request(
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_name: str) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(site.store, "current", fail)
    async with served(site, tmp_path / "s"):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(b"GET /boot/525400123456.ipxe HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 500 ")
        writer.close()
        await writer.wait_closed()
    assert site.journal.counters["http.500"] == 1
    assert "a bug" in caplog.text
    assert (await site.client.get("/healthz")).status == 200


async def test_a_client_that_goes_away_is_counted_and_has_no_image(
    site: Site, tmp_path: Path
) -> None:
    with (site.folder / "own" / "big").open("wb") as file:
        file.truncate(1 << 30)
    async with served(site, tmp_path / "s"):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(b"GET /files/big HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readexactly(1000)
        writer.transport.abort()
        await site.watch.wait_idle()
    assert site.journal.counters == {"http.aborted": 1}


async def test_on_the_unix_socket_nobody_is_a_node(site: Site, tmp_path: Path) -> None:
    connector = UnixConnector(str(tmp_path / "s"))
    url = f"http://x/images/{site.image}/initrd.img"
    async with served(site, tmp_path / "s"), ClientSession(connector=connector) as session:
        async with session.get("http://x/boot/52-54-00-12-34-56.ipxe") as response:
            assert "bootnode.server=http://127.0.0.1 " in await response.text()
        async with session.post("http://x/report/52-54-00-12-34-56", data="up n1") as response:
            assert response.status == 403
        async with session.get(url) as response:
            assert await response.read() == INITRD
    assert (site.stages(), site.delivered) == ([], [])


# Unified kernel images


@pytest.fixture
def unified_url(site: Site, stub: Callable[..., bytes]) -> str:
    """Where the unified kernel image of n1 is; it has an address."""
    publish(site.store, stub=stub())
    site.journal.locate(MAC, ADDRESS, now=NOW)
    return f"/boot/{MAC.hyphenated}/{site.store.current('failsafe').version}.efi"


async def test_a_unified_kernel_image_is_all_that_a_node_needs(
    site: Site, unified_url: str
) -> None:
    async with site.client.head(unified_url, headers=at(ADDRESS)) as response:
        head = response
    assert site.stages() == ["loader", site.image]
    async with site.client.get(unified_url, headers=at(ADDRESS)) as response:
        body = await response.read()
    await site.watch.wait_idle()
    assert (head.status, response.status) == (200, 200)
    for name in ("Content-Length", "Content-Type", "ETag", "Accept-Ranges"):
        assert head.headers[name] == response.headers[name]
    assert head.headers["Content-Type"] == "application/efi"
    assert int(head.headers["Content-Length"]) == len(body)
    assert body[:2] == b"MZ"
    assert f"bootnode.server={site.url} bootnode.node=n1 ".encode() in body
    assert site.stages() == ["loader", "kernel", "initrd", site.image]
    assert site.delivered == [MAC]


@pytest.mark.parametrize(
    ("range_", "first", "last"),
    [("bytes=0-99", 0, 99), ("bytes=1000-", 1000, None), ("bytes=-7", -7, None)],
)
async def test_a_part_of_a_unified_kernel_image(
    site: Site, unified_url: str, range_: str, first: int, last: int | None
) -> None:
    _, whole = await site.read(unified_url, at(ADDRESS))
    site.delivered.clear()
    headers = {**at(ADDRESS), "Range": range_}
    async with site.client.get(unified_url, headers=headers) as response:
        body = await response.read()
    await site.watch.wait_idle()
    begin = first % len(whole)
    assert body == whole[begin : len(whole) if last is None else last + 1]
    assert response.status == 206
    span = f"bytes {begin}-{begin + len(body) - 1}/{len(whole)}"
    assert response.headers["Content-Range"] == span
    # What was resumed and came to its end is delivered.
    assert site.delivered == ([MAC] if last is None else [])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Range": "bytes=99999999-"}, 416),
        ({"Range": "bytes=5-2"}, 200),
        ({"Range": "bytes=0-1,4-5"}, 200),
        ({"If-Match": '"other"'}, 412),
        ({"If-Match": "*"}, 200),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"other"'}, 200),
        ({"Range": "bytes=0-1", "If-Range": '"other"'}, 200),
        ({"If-Match": "{tag}", "Range": "bytes=0-1", "If-Range": "{tag}"}, 206),
        ({"If-None-Match": "{tag}"}, 304),
    ],
)
async def test_conditions_on_a_unified_kernel_image(
    site: Site, unified_url: str, headers: dict[str, str], status: int
) -> None:
    async with site.client.head(unified_url, headers=at(ADDRESS)) as response:
        tag = response.headers["ETag"]
    said = {name: value.replace("{tag}", tag) for name, value in headers.items()}
    for _ in range(2):  # the connection stays usable
        async with site.client.get(unified_url, headers={**at(ADDRESS), **said}) as response:
            body = await response.read()
        assert response.status == status
        if status in (304, 412, 416):
            assert body == b""
    await site.watch.wait_idle()
    assert site.delivered == ([MAC] * 2 if status == 200 else [])


@pytest.mark.parametrize(
    ("path", "peer", "status"),
    [
        ("/boot/52-54-00-12-34-56/{version}.efi", "10.77.0.66", 403),
        ("/boot/52-54-00-12-34-56/{version}.efi", "127.0.0.1", 403),
        ("/boot/52-54-00-12-34-56/0000000000000000.efi", str(ADDRESS), 404),
        ("/boot/52-54-00-12-34-56/x.efi", str(ADDRESS), 404),
        ("/boot/52-54-00/{version}.efi", str(ADDRESS), 404),
    ],
)
async def test_who_gets_no_unified_kernel_image(
    site: Site, unified_url: str, path: str, peer: str, status: int
) -> None:
    version = unified_url.rpartition("/")[2].removesuffix(".efi")
    got, body = await site.read(path.format(version=version), at(peer))
    assert got == status
    assert b"MZ" not in body
    assert site.delivered == []


async def test_a_unified_kernel_image_that_breaks_off(
    site: Site, stub: Callable[..., bytes]
) -> None:
    publish(site.store, initrd=bytes(64 << 20), stub=stub())
    site.journal.locate(MAC, ADDRESS, now=NOW)
    version = site.store.current("failsafe").version
    async with site.client.get(
        f"/boot/{MAC.hyphenated}/{version}.efi", headers=at(ADDRESS)
    ) as response:
        assert response.status == 200
        response.close()
    await site.watch.wait_idle()
    assert site.delivered == []
