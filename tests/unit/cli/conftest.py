"""A configuration to run commands on, and what they print."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer
from types import MappingProxyType

import pytest

from bootnode.boot.journal import Journal
from bootnode.cli import main
from bootnode.image import cpio, nodefiles
from bootnode.image.store import Contents, ImageStore, Provenance
from bootnode.nodes import load_nodes
from bootnode.web.status import as_json

NOW = 1_700_000_000.0
"""What time the daemon's clock says."""
CONFIG = "state_dir: state\nnetworks: [{interface: tap0, dhcp: full}]\n"
NODES = """\
defaults: {image: failsafe, kernel_args: [console=ttyS0]}
nodes:
  node-000: {mac: fc:ab:14:e8:66:01, ip: 10.77.0.10, vars: {rack: 7}}
  node-001: {mac: [fc:ab:14:e8:66:02, fc:ab:14:e8:66:03], boot: once, image: compute}
  node-002: {mac: fc:ab:14:e8:66:04, boot_file: grubx64.efi, kernel_args: quiet}
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command did."""

    status: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a right configuration."""
    (tmp_path / "bootnoded.yaml").write_text(CONFIG)
    (tmp_path / "nodes.yaml").write_text(NODES)
    return tmp_path


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command on that configuration; its output goes to no terminal."""

    def bootnode(*words: str) -> Outcome:
        with pytest.raises(SystemExit) as exited:
            main([*words, "-c", str(folder / "bootnoded.yaml")])
        captured = capsys.readouterr()
        assert isinstance(exited.value.code, int)
        return Outcome(exited.value.code, captured.out, captured.err)

    return bootnode


@pytest.fixture
def publish(folder: Path) -> Callable[..., str]:
    """Publishes an image of these bytes and returns its version."""
    store = ImageStore(folder / "state" / "images")

    def make(
        name: str,
        initrd: bytes = b"x" * 14_200_000,
        node_files: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        with store.staging(name) as staging:
            staged = staging / "files"
            staged.mkdir()
            (staged / "vmlinuz").write_bytes(b"kernel")
            (staged / "initrd.img").write_bytes(initrd)
            if node_files:
                entries = [cpio.file(path, text.encode()) for path, text in node_files.items()]
                nodefiles.write(entries, staged / nodefiles.FILE)
            version = store.publish(
                name,
                staged,
                Contents(
                    kernel="vmlinuz",
                    initrds=("initrd.img",),
                    kernel_release="6.1.0-test",
                    ram_bytes=30_000_000,
                    node_files=nodefiles.FILE if node_files else None,
                ),
                Provenance(recipe_sha256="00", packages={"busybox-static": "1.35"}),
            )
        return version.version

    return make


class Daemon(UnixStreamServer):
    """Answers every request with the status of a journal."""

    def __init__(self, path: Path, journal: Journal, nodes: Path) -> None:
        self.journal = journal
        self.table = load_nodes(nodes)
        super().__init__(str(path), Handler)

    def body(self) -> bytes:
        return json.dumps(as_json(self.table, self.journal, now=NOW)).encode()


class Handler(BaseHTTPRequestHandler):
    server: Daemon

    def do_GET(self) -> None:  # the library's name
        body = self.server.body()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass

    def address_string(self) -> str:
        return "unix"


@pytest.fixture
def journal(folder: Path) -> Iterator[Journal]:
    """The journal of a daemon that answers on the configuration's socket."""
    journal = Journal()
    (folder / "state").mkdir(exist_ok=True)
    with Daemon(folder / "state" / "bootnoded.sock", journal, folder / "nodes.yaml") as daemon:
        thread = threading.Thread(target=daemon.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield journal
        finally:
            daemon.shutdown()
            thread.join(10)
