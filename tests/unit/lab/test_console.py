"""Console bytes as text, and the copying between a person and a console."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from bootnode.errors import LabError
from bootnode.lab.console import attach_terminal, clean, copy_both_ways, open_unix


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain\r\n", "plain\n"),
        (b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS", "SeaBIOS"),
        (b"\x1b[01;01H\x1b[=3h\x1b(0UEFI\x1b)B\x07", "UEFI"),
        (b"a\x00b", "ab"),
        ("Knöten \xff".encode("latin-1"), "Kn\ufffdten \ufffd"),
        (b"cut \x1b[0", "cut \x1b[0"),
    ],
)
def test_control_sequences_are_taken_out(raw: bytes, text: str) -> None:
    assert clean(raw) == text


def test_a_path_too_long_for_a_socket_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind("console")
        listener.listen()
        with open_unix(folder / "console", timeout_s=5) as connection:
            assert connection.gettimeout() == 5


def test_a_node_that_is_off_has_no_console(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"^node-000: no console .* is the node on\?$"):
        attach_terminal(tmp_path / "node-000.console", tmp_path / "node-000.log")


def copied(typed: bytes, console: bytes) -> tuple[bytes, bytes]:
    """What reaches the node and the screen."""
    person, node = socket.socketpair()
    keyboard, keys = os.pipe()
    seen, screen = os.pipe()
    node.sendall(console)
    os.write(keys, typed)
    copy_both_ways(person, keyboard, screen)
    person.close()
    os.close(screen)
    at_node, at_screen = node.recv(4096), os.read(seen, 4096)
    node.close()
    for descriptor in (keyboard, keys, seen):
        os.close(descriptor)
    return at_node, at_screen


def test_keys_reach_the_node_until_the_escape() -> None:
    assert copied(b"ls\r\x1dafter", b"# ") == (b"ls\r", b"# ")


def test_the_copying_ends_with_the_console() -> None:
    keyboard, keys = os.pipe()
    seen, screen = os.pipe()
    person, node = socket.socketpair()
    with person, node:
        node.sendall(b"bye")
        node.shutdown(socket.SHUT_WR)
        copy_both_ways(person, keyboard, screen)
    assert os.read(seen, 10) == b"bye"
    for descriptor in (keyboard, keys, seen, screen):
        os.close(descriptor)


def test_the_copying_ends_with_the_keyboard() -> None:
    person, node = socket.socketpair()
    with person, node, Path(os.devnull).open("rb") as keyboard:
        copy_both_ways(person, keyboard.fileno(), 1)
        person.close()
        assert node.recv(10) == b""
