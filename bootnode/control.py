"""Asking the running daemon, over its Unix socket: the file's permissions say who may."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from bootnode.errors import BootnodeError

TIMEOUT_S = 5.0


class NoDaemonError(BootnodeError):
    """Nobody listens on the socket."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP to a Unix socket instead of a host and port."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))


def fetch_status(path: Path) -> dict[str, Any]:
    """The daemon's status, as `bootnode.web.status.as_json` makes it.

    Raises:
        NoDaemonError: nobody listens on the socket.
        BootnodeError: who does gives no status, or not to us.
    """
    connection = _UnixConnection(path)
    try:
        connection.request("GET", "/api/status")
        response = connection.getresponse()
        body = response.read()
    except PermissionError:
        raise BootnodeError(
            f"{path}: permission denied: run this as root or as the user bootnode"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        is_absent = isinstance(error, (FileNotFoundError, ConnectionRefusedError))
        raise (NoDaemonError if is_absent else BootnodeError)(
            f"no bootnoded answers on {path} ({error}): start it with "
            "`systemctl start bootnoded`, or name its configuration with -c"
        ) from None
    finally:
        connection.close()
    if response.status != 200:
        raise BootnodeError(f"{path}: bootnoded answered {response.status} {response.reason}")
    try:
        status = json.loads(body)
    except ValueError:
        status = None
    if not isinstance(status, dict):
        raise BootnodeError(f"{path}: bootnoded answered with something that is no status")
    return status
