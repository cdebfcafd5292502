"""The files of each node, fetched from the real daemon as a node does, and as others might."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bootnode.lab import Host
    from tests.e2e.conftest import Bench

pytestmark = pytest.mark.root

HTTP = "http://192.168.44.1:8080"
NODES = """
defaults: {image: tiny}
nodes:
  alpha: {mac: '52:54:00:44:00:0a', ip: 192.168.44.10, boot: once, vars: {%s: 7}}
  beta: {mac: '52:54:00:44:00:0b', ip: 192.168.44.11, vars: {rack: 8}}
"""
TEMPLATES = {
    "etc/hostname.j2": "{{ node.name }}\n",
    "etc/machine-id.j2": "{{ machine_id() }}\n",
    "etc/ssh/key.j2": "{{ ssh_host_key() }}",
    "etc/rack.j2": "{{ vars.rack }} behind {{ network.server }}/{{ network.prefix }}\n",
    "etc/hosts.j2": "{{ hosts }}",
    "usr/bin/tool": "not for {{ anybody }}\n",
}
TIMEOUT_S = 10.0


class Node:
    """A host whose curl plays iPXE."""

    def __init__(self, bench: Bench, name: str, last: str) -> None:
        self.bench = bench
        self.mac = f"52-54-00-44-00-{last}"
        address = f"192.168.44.{int(last, 16)}/25"
        self.host: Host = bench.host(name, mac=self.mac.replace("-", ":"), address=address)

    def curl(self, *arguments: str) -> str:
        return self.bench.run(self.host, "curl", "-sS", "--max-time", "10", *arguments)

    def script(self) -> str:
        return self.curl("-f", f"{HTTP}/boot/{self.mac}.ipxe")

    def status_of(self, url: str) -> str:
        return self.curl("-o", "/dev/null", "-w", "%{http_code}", url)

    def files(self, url: str) -> dict[str, str]:
        """What cpio(1) finds in the ramdisk there, by path."""
        folder = self.bench.folder / "unpacked"
        folder.mkdir(exist_ok=True)
        self.curl("-f", "-o", str(folder / "node.cpio"), url)
        command = f"cd {folder} && cpio -idmu --quiet <node.cpio && rm node.cpio"
        self.bench.run(self.host, "sh", "-c", command)
        found = {
            str(path.relative_to(folder / "node-files")): path.read_text()
            for path in folder.rglob("*")
            if path.is_file()
        }
        key = folder / "node-files/etc/ssh/key"
        assert not key.exists() or key.stat().st_mode & 0o7777 == 0o600
        return found


@pytest.fixture
def served(bench: Bench, need: Callable[..., None]) -> Bench:
    need("curl", "cpio")
    bench.configure(NODES % "rack")
    bench.publish(node_files=TEMPLATES)
    return bench


def url_in(script: str) -> str:
    """Where the last ramdisk of a script is."""
    *_, last = re.findall(r"^initrd --name (\S+) (\S+) ", script, re.MULTILINE)
    assert last[0] == "node.cpio"
    return str(last[1])


def test_each_node_gets_its_own_and_no_other(served: Bench) -> None:
    daemon = served.start()
    alpha, beta = Node(served, "alpha", "0a"), Node(served, "beta", "0b")
    ours, theirs = url_in(alpha.script()), url_in(beta.script())
    # `boot: once` is used up by the last ramdisk, which is this one.
    alpha.curl(
        "-f",
        "-o",
        "/dev/null",
        ours.replace(f"boot/{alpha.mac}", "images").replace("node.cpio", "initrd.img"),
    )
    assert "initrd" in alpha.script()
    assert beta.status_of(ours) == "403"
    assert "initrd" in alpha.script()
    files = alpha.files(ours)
    assert "sanboot" in alpha.script()
    assert files["etc/hostname"] == "alpha\n"
    assert files["etc/rack"] == "7 behind 192.168.44.1/25\n"
    assert files["etc/hosts"] == "192.168.44.10 alpha\n192.168.44.11 beta\n"
    assert files["usr/bin/tool"] == "not for {{ anybody }}\n"
    assert files["etc/ssh/key"].startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert re.fullmatch(r"[0-9a-f]{32}\n", files["etc/machine-id"])
    others = beta.files(theirs)
    assert others["etc/hostname"] == "beta\n"
    assert others["etc/machine-id"] != files["etc/machine-id"]
    assert alpha.status_of(theirs) == "403"
    assert served.status()["counters"]["nodefiles.refused"] == 2
    assert served.node("alpha")["stage"] == "initrd"
    # The version is what the script named, and the machine the one it was.
    served.publish(node_files={"etc/other": ""})
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(TIMEOUT_S) == 0
    served.start()
    assert alpha.files(ours)["etc/machine-id"] == files["etc/machine-id"]


def test_a_template_that_fails_holds_one_node_until_it_is_mended(served: Bench) -> None:
    served.nodes.write_text(NODES % "rak")
    daemon = served.start()
    alpha, beta = Node(served, "alpha", "0a"), Node(served, "beta", "0b")
    reason = "etc/rack.j2:1: there is no 'rack' (there is: rak)"
    assert f"alpha waits: its files cannot be made: {reason}" in alpha.script()
    assert served.node("alpha")["stage"] == "failed"
    assert reason in served.node("alpha")["detail"]
    assert beta.files(url_in(beta.script()))["etc/hostname"] == "beta\n"
    bootnode = str(Path(sys.executable).with_name("bootnode"))
    command = [bootnode, "check", "-c", str(served.config)]
    done = served.lab.run(command, TIMEOUT_S)
    assert done.returncode == 1
    assert re.fullmatch(
        r"tiny/[0-9a-f]{16}/etc/rack\.j2:1: alpha: there is no 'rack' \(there is: rak\)\n",
        done.stderr,
    )
    served.nodes.write_text(NODES % "rack")
    daemon.send_signal(signal.SIGHUP)
    daemon.wait_log("reload: 2 nodes", timeout_s=TIMEOUT_S)
    assert alpha.files(url_in(alpha.script()))["etc/rack"].startswith("7 ")


def test_files_without_their_secret_hold_the_node(served: Bench) -> None:
    (served.state / "node-secret").write_text("damaged")
    served.start()
    alpha = Node(served, "alpha", "0a")
    assert re.search(
        r"alpha waits: its files cannot be made: etc/machine-id\.j2:1: \S+/node-secret is damaged: "
        r"put it back from a backup, or delete it",
        alpha.script(),
    )
