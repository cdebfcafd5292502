"""The script that a booted image reports with, with a systemctl of ours before it."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

OVERLAY = Path(__file__).parents[3] / "images" / "compute" / "overlay"
SCRIPT = OVERLAY / "usr/lib/bootnode/report-up"
UNIT = OVERLAY / "etc/systemd/system/bootnode-up.service"
TIMEOUT_S = 30.0

# Says `starting` once, as a systemctl that cannot wait would.
SYSTEMCTL = """#!/bin/sh
case $1 in
    is-system-running)
        [ -e {folder}/asked ] || { : >{folder}/asked; echo starting; exit 1; }
        echo {state} ;;
    list-units) printf 'a.service loaded failed failed A b\\nb.mount loaded failed failed B\\n' ;;
    --version) printf 'systemd 252 (252.39-1~deb12u1)\\n+PAM\\n' ;;
esac
"""


@pytest.fixture
def reports() -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """A server's port, and what was posted there; the first post is refused."""
    taken: list[tuple[str, str]] = []
    refused: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            (taken if refused else refused).append((self.path, body))
            self.send_response(200 if taken else 503)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Be quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1], taken
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("state", "report"),
    [
        ("running", "up alder compute/1 from squashfs, systemd 252 (252.39-1~deb12u1)"),
        ("degraded", "failed alder systemd is degraded: a.service b.mount"),
        ("maintenance", "failed alder systemd is maintenance: a.service b.mount"),
    ],
)
def test_it_posts_what_became_of_the_boot(
    tmp_path: Path, reports: tuple[int, list[tuple[str, str]]], state: str, report: str
) -> None:
    port, taken = reports
    systemctl = tmp_path / "systemctl"
    filled = SYSTEMCTL.replace("{folder}", str(tmp_path)).replace("{state}", state)
    systemctl.write_text(filled)
    systemctl.chmod(0o755)
    identity = {
        "NODE": "alder",
        "SERVER": f"http://127.0.0.1:{port}",
        "IMAGE": "compute/1",
        "ROOT_FORMAT": "squashfs",
        "MAC": "52:54:00:ab:cd:03",
    }
    environment = {**identity, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    result = subprocess.run(
        [str(SCRIPT)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert result.stdout == f"bootnode: {report}\n"
    assert taken == [("/report/52-54-00-ab-cd-03", report)]


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck")
def test_shellcheck_has_nothing_to_say() -> None:
    result = subprocess.run(
        ["shellcheck", str(SCRIPT)], capture_output=True, text=True, check=False
    )
    assert result.stdout == ""
    assert result.returncode == 0


def test_the_unit_starts_the_script() -> None:
    assert "ExecStart=/usr/lib/bootnode/report-up\n" in UNIT.read_text()
    assert SCRIPT.stat().st_mode & 0o111 == 0o111
