"""A node in the middle of its boot, while its image is built, rolled back, pruned and deleted."""

from __future__ import annotations

import hashlib
import json
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from bootnode.image.store import Contents, ImageStore, ImageVersion, Provenance, RootFile

if TYPE_CHECKING:
    from bootnode.lab import Host
    from tests.e2e.conftest import Bench

pytestmark = pytest.mark.root

NODES = """\
nodes:
  alpha: {mac: '52:54:00:44:00:0a', ip: 192.168.44.10, image: tiny}
  beta: {mac: '52:54:00:44:00:0b', ip: 192.168.44.11, image: tiny}
"""
HTTP = "http://192.168.44.1:8080"
FILES = ("vmlinuz", "initrd.img", "root.squashfs")
COMMAND_TIMEOUT_S = 30
MAIN = "from bootnode.cli import main; main()"


def content(file: str, generation: int) -> bytes:
    """What a file of the image holds in each version."""
    return random.Random(f"{file} {generation}").randbytes(500_000)


def publish(bench: Bench, generation: int) -> ImageVersion:
    store = ImageStore(bench.state / "images")
    files = {file: content(file, generation) for file in FILES}
    root = files["root.squashfs"]
    contents = Contents(
        kernel="vmlinuz",
        initrds=("initrd.img",),
        kernel_release="6.1.0",
        ram_bytes=1_000_000,
        root=RootFile(
            format="squashfs",
            fetch="init",
            file="root.squashfs",
            size_bytes=len(root),
            sha256=hashlib.sha256(root).hexdigest(),
            ram_bytes=len(root),
        ),
    )
    with store.staging("tiny") as work:
        staged = work / "files"
        staged.mkdir()
        for file, data in files.items():
            (staged / file).write_bytes(data)
        return store.publish("tiny", staged, contents, Provenance(recipe_sha256="", packages={}))


@dataclass(frozen=True, slots=True)
class Node:
    """A node as far as HTTP sees it."""

    bench: Bench
    host: Host
    mac: str
    name: str

    def curl(self, *arguments: str) -> str:
        return self.bench.run(self.host, "curl", "-sS", "-f", "--max-time", "10", *arguments)

    def script(self) -> dict[str, str]:
        """The URLs that the boot script names, by the files they end in."""
        text = self.curl(f"{HTTP}/boot/{self.mac}.ipxe")
        urls = re.findall(rf"{HTTP}/images/\S+", text)
        return {url.rpartition("/")[2]: url for url in urls}

    def fetch(self, url: str, *arguments: str) -> bytes:
        got = self.bench.folder / f"got-{self.name}"
        self.curl(*arguments, "-o", str(got), url)
        return got.read_bytes()

    def report(self, stage: str) -> None:
        assert self.curl("-d", f"{stage} {self.name}", f"{HTTP}/report/{self.mac}") == "ok\n"


@pytest.fixture
def served(bench: Bench, need: Callable[..., None]) -> Bench:
    need("curl")
    bench.configure(NODES)
    return bench


def node(bench: Bench, name: str) -> Node:
    last = {"alpha": 10, "beta": 11}[name]
    mac = f"52:54:00:44:00:{last:02x}"
    host = bench.host(name, mac=mac, address=f"192.168.44.{last}/25")
    return Node(bench, host, mac.replace(":", "-"), name)


def image(bench: Bench, *words: str) -> tuple[int, str]:
    """`bootnode image` on the server: its status, and what it said."""
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "image", *words, "-c", str(bench.config)],
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def uses(bench: Bench) -> dict[str, dict[str, Any]]:
    """Who uses which version, as `image list` says."""
    status, said = image(bench, "list", "--json")
    assert status == 0
    keys = ("current", "next_boot", "booting", "running")
    return {v["version"]: {key: v[key] for key in keys} for v in json.loads(said)}


def test_a_node_keeps_the_version_that_its_boot_began_with(served: Bench) -> None:
    """Between any two of its files, the image is built, rolled back and pruned."""
    first = publish(served, 1)
    served.start()
    alpha = node(served, "alpha")
    urls = alpha.script()
    assert set(urls) == set(FILES)
    assert all(f"/tiny/{first.version}/" in url for url in urls.values())

    second = publish(served, 2)
    assert alpha.fetch(urls["vmlinuz"]) == content("vmlinuz", 1)
    assert image(served, "rollback", "tiny", second.version)[0] == 0
    assert image(served, "prune", "tiny", "--keep", "1")[0] == 0
    assert alpha.fetch(urls["initrd.img"]) == content("initrd.img", 1)
    alpha.report("init")

    third = publish(served, 3)
    status, said = image(served, "prune", "tiny", "--keep", "1")
    assert status == 0, said
    assert set(uses(served)) == {first.version, third.version}, "the second was not needed"
    assert uses(served)[first.version]["booting"] == ["alpha"]
    status, said = image(served, "delete", "tiny", first.version)
    assert status == 1
    assert f"version {first.version} of 'tiny' is being booted by alpha: " in said

    # The root breaks off, and is resumed after more of the same.
    url, root = urls["root.squashfs"], content("root.squashfs", 1)
    assert alpha.fetch(url, "-r", "0-199999") == root[:200_000]
    publish(served, 4)
    assert image(served, "rollback", "tiny")[0] == 0
    assert image(served, "prune", "tiny", "--keep", "1")[0] == 0
    assert alpha.fetch(url, "-r", "200000-") == root[200_000:]
    alpha.report("root")
    assert image(served, "delete", "tiny", first.version)[0] == 1

    # Now it has all in memory.
    alpha.report("switch")
    assert uses(served)[first.version]["running"] == ["alpha"]
    assert image(served, "delete", "tiny", first.version)[0] == 0
    assert uses(served)[third.version] == {
        "current": True,
        "next_boot": ["alpha", "beta"],
        "booting": [],
        "running": [],
    }
    alpha.report("up")
    assert all(f"/tiny/{third.version}/" in url for url in alpha.script().values())


def test_a_rollback_counts_from_the_next_script_on(served: Bench) -> None:
    first, second = publish(served, 1), publish(served, 2)
    served.start()
    alpha, beta = node(served, "alpha"), node(served, "beta")
    alpha_urls = alpha.script()
    status, said = image(served, "rollback", "tiny")
    assert status == 0
    assert f"tiny {first.version} " in said
    assert "nodes that have this image: alpha,beta\n" in said
    beta_urls = beta.script()
    for number, (who, urls) in ((2, (alpha, alpha_urls)), (1, (beta, beta_urls))):
        for file in FILES:
            assert who.fetch(urls[file]) == content(file, number)
    assert {version: use["booting"] for version, use in uses(served).items()} == {
        first.version: ["beta"],
        second.version: ["alpha"],
    }


def test_a_restarted_daemon_knows_again_who_boots(served: Bench) -> None:
    """From the lease and the first file that the node asks for."""
    first = publish(served, 1)
    daemon = served.start()
    alpha = node(served, "alpha")
    mac = alpha.mac.replace("-", ":")
    served.machine(alpha.host, mac, "ipxe_2.0.0_bios_qemu_discover").lease()
    urls = alpha.script()
    second = publish(served, 2)
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(COMMAND_TIMEOUT_S) == 0
    status, said = image(served, "list")
    assert status == 0
    assert "no bootnoded answers on " in said
    served.start(name="again")
    assert alpha.fetch(urls["vmlinuz"]) == content("vmlinuz", 1)
    assert uses(served)[first.version]["booting"] == ["alpha"]
    assert image(served, "delete", "tiny", first.version)[0] == 1
    assert uses(served)[second.version]["current"]
