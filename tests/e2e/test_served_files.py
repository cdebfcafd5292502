"""Files by TFTP and HTTP, fetched from the real daemon with other people's clients."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bootnode.image.store import ImageVersion
    from bootnode.lab import Host
    from tests.e2e.conftest import Bench

pytestmark = pytest.mark.root

NODE_IP = "192.168.44.10"
NODES = f"nodes:\n  alpha: {{mac: '52:54:00:44:00:0a', ip: {NODE_IP}, image: tiny}}\n"
HTTP = "http://192.168.44.1:8080"
OWN_FILE = random.Random(3).randbytes(2_000_001)
REFUSED_NAMES = (
    "../secret",
    "sub/../../secret",
    "..\\secret",
    "/etc/passwd",
    "//etc/passwd",
    "link-out",
    "folder-out/secret",
    "sub",
    "nothing",
)


@pytest.fixture
def served(bench: Bench, need: Callable[..., None]) -> Bench:
    """A daemon with an image, a folder of the user's own, and things that must not be served."""
    need("curl")
    (bench.files / "sub").mkdir(parents=True)
    (bench.files / "own.bin").write_bytes(OWN_FILE)
    (bench.files / "sub" / "small.txt").write_text("small\n")
    (bench.folder / "secret").write_text("secret\n")
    (bench.files / "link-out").symlink_to(bench.folder / "secret")
    (bench.files / "folder-out").symlink_to(bench.folder)
    bench.configure(NODES, more=f"files: {bench.files}\n")
    bench.start()
    return bench


@pytest.fixture
def client(served: Bench) -> Host:
    return served.host("alpha", mac="52:54:00:44:00:0a", address=f"{NODE_IP}/25")


def curl(bench: Bench, host: Host, *arguments: str | Path) -> str:
    """curl's output, headers and all it was asked for; its failure fails the test."""
    return bench.run(host, "curl", "-sS", "--max-time", "10", *arguments)


def test_the_boot_script_names_files_that_are_there(served: Bench, client: Host) -> None:
    image = served.publish()
    script = curl(served, client, f"{HTTP}/boot/52-54-00-44-00-0a.ipxe")
    assert script.startswith("#!ipxe\n")
    urls = re.findall(rf"{HTTP}/images/tiny/{image.version}/\S+", script)
    assert [url.rpartition("/")[2] for url in urls] == ["vmlinuz", "initrd.img"]
    for url in urls:
        got = served.folder / "got"
        curl(served, client, "-f", "-o", got, url)
        assert got.read_bytes() == (image.folder / url.rpartition("/")[2]).read_bytes()
    assert served.node("alpha")["stage"] == "initrd"


def test_a_node_without_its_image_is_told_so_and_asks_again(served: Bench, client: Host) -> None:
    script = curl(served, client, "-f", f"{HTTP}/boot/52-54-00-44-00-0a.ipxe")
    assert "bootnode image build tiny" in script
    assert "sleep" in script
    assert f"{HTTP}/boot/52-54-00-44-00-0a.ipxe" in script
    assert served.node("alpha")["stage"] == "failed"


def kernel_url(image: ImageVersion) -> str:
    return f"{HTTP}/images/{image.name}/{image.version}/vmlinuz"


def test_downloads_are_resumed(served: Bench, client: Host) -> None:
    image = served.publish()
    whole = (image.folder / "vmlinuz").read_bytes()
    got = served.folder / "got"
    got.write_bytes(whole[:300_001])
    said = curl(served, client, "-C", "-", "-D", "-", "-o", got, kernel_url(image))
    assert said.startswith("HTTP/1.1 206 Partial Content\n")
    assert f"Content-Range: bytes 300001-{len(whole) - 1}/{len(whole)}" in said
    assert got.read_bytes() == whole


def test_a_part_is_just_that_part(served: Bench, client: Host) -> None:
    image = served.publish()
    whole = (image.folder / "vmlinuz").read_bytes()
    got = served.folder / "got"
    for wanted, part in (
        ("0-0", whole[:1]),
        ("1000-1999", whole[1000:2000]),
        ("1000000-", whole[1_000_000:]),
        ("-5", whole[-5:]),
    ):
        said = curl(served, client, "-r", wanted, "-D", "-", "-o", got, kernel_url(image))
        assert said.startswith("HTTP/1.1 206 ")
        assert f"Content-Length: {len(part)}\n" in said
        assert got.read_bytes() == part


def test_head_says_what_get_would(served: Bench, client: Host) -> None:
    image = served.publish()
    url = kernel_url(image)
    size = (image.folder / "vmlinuz").stat().st_size
    head = curl(served, client, "-I", url)
    get = curl(served, client, "-D", "-", "-o", "/dev/null", url)
    assert head.startswith("HTTP/1.1 200 OK\n")
    for name in ("Content-Length", "Content-Type", "ETag", "Last-Modified", "Accept-Ranges"):
        found = [
            re.search(rf"^{name}: (.*)$", said, re.MULTILINE | re.IGNORECASE)
            for said in (head, get)
        ]
        assert all(found), (name, head, get)
        assert found[0] is not None
        assert found[1] is not None
        assert found[0][1] == found[1][1]
    assert f"Content-Length: {size}\n" in head
    assert "content-encoding" not in (head + get).lower()
    assert "transfer-encoding" not in (head + get).lower()
    beyond = curl(served, client, "-r", f"{size}-", "-D", "-", "-o", "/dev/null", url)
    assert beyond.startswith("HTTP/1.1 416 ")
    assert "Content-Length: 0\n" in beyond


def test_one_connection_serves_a_whole_boot(served: Bench, client: Host) -> None:
    """Kernel, ramdisk, a resumed piece, what is not there and what is no range."""
    image = served.publish()
    kernel = kernel_url(image)
    initrd = kernel.replace("vmlinuz", "initrd.img")
    urls = (kernel, initrd, f"{HTTP}/files/nothing", kernel)
    whole = [word for url in urls for word in ("-o", "/dev/null", url)]
    said = curl(
        served,
        client,
        *("-v", *whole),
        *("--next", "-sS", "-v", "-r", "100-", "-o", "/dev/null", kernel),
        *("--next", "-sS", "-v", "-r", "9999999-", "-o", "/dev/null", kernel),
        *("--next", "-sS", "-v", "-o", "/dev/null", initrd),
    )
    assert re.findall(r"^< HTTP/1.1 (\d+)", said, re.MULTILINE) == [
        *("200", "200", "404", "200", "206", "416", "200"),
    ]
    assert said.count("Connected to") == 1
    assert said.count("Re-using existing connection") == 6


def test_old_clients_are_answered_and_the_connection_closed(served: Bench, client: Host) -> None:
    said = curl(served, client, "-0", "-D", "-", "-o", "/dev/null", f"{HTTP}/loaders/snponly.efi")
    assert re.match(r"HTTP/1\.[01] 200 OK\n", said)
    assert "application/efi" in said


def test_own_files_come_by_both_ways(served: Bench, client: Host) -> None:
    got = served.folder / "got"
    digest = hashlib.sha256(OWN_FILE).digest()
    for url in (f"{HTTP}/files/own.bin", "tftp://192.168.44.1/own.bin"):
        curl(served, client, "-f", "-o", got, url)
        assert hashlib.sha256(got.read_bytes()).digest() == digest
        got.unlink()
    for url in (f"{HTTP}/files/sub/small.txt", "tftp://192.168.44.1/sub/small.txt"):
        assert curl(served, client, "-f", url) == "small\n"


def test_nothing_outside_is_served(served: Bench, client: Host) -> None:
    for name in REFUSED_NAMES:
        web_names = {name, name.replace("..", "%2e%2e"), name.replace("/", "%2f")}
        for web_name in web_names:
            url = f"{HTTP}/files/{web_name}"
            said = curl(served, client, "--path-as-is", "-w", "%{http_code}", url)
            assert said[-3:] in ("403", "404"), said
            assert "secret" not in said
        done = client.run(["curl", "-sS", "--path-as-is", f"tftp://192.168.44.1/{name}"], 20)
        assert done.returncode in (68, 69), name  # not found, no permission
        assert done.stdout == ""


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--option", "blksize 1428", "--option", "windowsize 8", "--option", "tsize 0"),
        ("--option", "windowsize 16"),
    ],
)
def test_atftp(
    served: Bench, client: Host, need: Callable[..., None], options: tuple[str, ...]
) -> None:
    need("atftp")
    got = served.folder / "got"
    served.run(client, "atftp", *options, "-g", "-r", "own.bin", "-l", got, served.server)
    assert got.read_bytes() == OWN_FILE


def test_tftp_hpa_gets_and_may_not_put(
    served: Bench, client: Host, need: Callable[..., None]
) -> None:
    need("tftp")
    got = served.folder / "got"
    served.run(client, "tftp", "-m", "binary", served.server, "-c", "get", "own.bin", got)
    assert got.read_bytes() == OWN_FILE
    loader = Path("/usr/lib/ipxe/undionly.kpxe")
    served.run(client, "tftp", "-m", "binary", served.server, "-c", "get", loader.name, got)
    assert got.read_bytes() == loader.read_bytes()
    done = client.run(["tftp", served.server, "-c", "put", str(got), "new.bin"], 20)
    assert "access violation" in done.stdout + done.stderr
    assert not (served.files / "new.bin").exists()


def test_reports_and_status(served: Bench, client: Host) -> None:
    served.publish()
    url = f"{HTTP}/report/52-54-00-44-00-0a"
    curl(served, client, f"{HTTP}/boot/52-54-00-44-00-0a.ipxe")
    assert curl(served, client, "-f", "-d", "init alpha 6.1.0", url) == "ok\n"
    node = served.node("alpha")
    assert (node["stage"], node["detail"]) == ("init", "6.1.0")
    assert node["image"].startswith("tiny/")
    said = curl(served, client, "-w", "%{http_code}", "-d", "loader alpha x", url)
    assert said.endswith("400")
    other = f"{HTTP}/report/52-54-00-44-00-99"
    said = curl(served, client, "-w", "%{http_code}", "-d", "up x y", other)
    assert said.endswith("403")
    assert "alpha" in curl(served, client, f"{HTTP}/")
    assert '"ok"' in curl(served, client, f"{HTTP}/healthz")
