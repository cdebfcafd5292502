"""The control channel, over a real Unix socket with a scripted supervisor."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from bootnode.errors import LabError
from bootnode.lab import control
from bootnode.lab.control import ProcessStatus

STATUS = ProcessStatus(
    name="dnsmasq", pid=7, command=("dnsmasq", "-k"), started=1.5, log_offset=0, exit_status=None
)


def call_with_answer(folder: Path, answer: bytes) -> dict[str, Any]:
    """What `call` makes of a supervisor that sends `answer` and hangs up."""
    path = folder / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(5)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                control.receive(connection)
                connection.sendall(answer)

        supervisor = threading.Thread(target=serve)
        supervisor.start()
        try:
            return control.call(path, {"do": "list"})
        finally:
            supervisor.join(5)


def test_a_status_survives_json() -> None:
    assert ProcessStatus.from_json(STATUS.to_json()) == STATUS


def test_a_reply_is_returned(tmp_path: Path) -> None:
    assert call_with_answer(tmp_path, b'{"processes": []}\n') == {"processes": []}


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b'{"error": "no such process"}\n', "^no such process$"),
        (b"", "went down while it was asked to list"),
        (b"nonsense\n", "want one JSON line"),
        (b"[1]\n", "want an object"),
    ],
)
def test_bad_replies_are_lab_errors(tmp_path: Path, answer: bytes, complaint: str) -> None:
    with pytest.raises(LabError, match=complaint):
        call_with_answer(tmp_path, answer)


def test_a_lab_that_is_down_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="bootnode lab up"):
        control.call(tmp_path / "control.sock", {"do": "list"})


def test_the_peer_is_the_process_that_listens(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        with control.connect(path, timeout_s=5) as connection:
            assert control.peer_pid(connection) == os.getpid()
