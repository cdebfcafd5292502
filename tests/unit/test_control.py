"""Asking the daemon over its Unix socket, with a server of the test's own on the other end."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bootnode import control
from bootnode.control import fetch_status
from bootnode.errors import BootnodeError


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[list[bytes]]:
    """A socket that takes one request and gives one answer."""
    requests: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        server.settimeout(10)

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                requests.append(connection.recv(4096))
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield requests
        thread.join(10)


def http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_status(tmp_path: Path) -> None:
    with answering(tmp_path / "s", http(b'{"now": 1.5, "nodes": []}')) as requests:
        assert fetch_status(tmp_path / "s") == {"now": 1.5, "nodes": []}
    assert requests[0].startswith(b"GET /api/status HTTP/1.1\r\nHost: localhost\r\n")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (http(b"", "503 Service Unavailable"), "bootnoded answered 503 Service Unavailable"),
        (http(b"<html>"), "bootnoded answered with something else than a status"),
        (http(b"\xff"), "bootnoded answered with something else than a status"),
        (http(b"[]"), "bootnoded answered with something else than a status"),
    ],
)
def test_no_status(tmp_path: Path, answer: bytes, message: str) -> None:
    path = tmp_path / "s"
    with (
        answering(path, answer),
        pytest.raises(BootnodeError, match=re.escape(f"{path}: {message}")),
    ):
        fetch_status(path)


def leave_stale(path: Path) -> None:
    """A socket whose daemon was killed."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.parametrize("prepare", [lambda _path: None, leave_stale], ids=["none", "stale"])
def test_nobody_there(tmp_path: Path, prepare: Callable[[Path], None]) -> None:
    path = tmp_path / "s"
    prepare(path)
    with pytest.raises(BootnodeError) as caught:
        fetch_status(path)
    assert str(caught.value).startswith(f"no bootnoded answers on {path} (")
    assert "start it with `systemctl start bootnoded`" in str(caught.value)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n"], ids=["hangs up", "is another"])
def test_something_else_there(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "s"
    with answering(path, answer), pytest.raises(BootnodeError, match="no bootnoded answers on"):
        fetch_status(path)


def test_not_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may always, so the refusal is made up here."""

    def refuse(_self: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(control._UnixConnection, "connect", refuse)
    with pytest.raises(BootnodeError) as caught:
        fetch_status(tmp_path / "s")
    assert str(caught.value) == (
        f"{tmp_path / 's'}: permission denied: run this as root or as the user bootnode"
    )
