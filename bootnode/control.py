"""Asking the running daemon, over its Unix socket: the file's permissions say who may."""

from __future__ import annotations

import http.client
import json
import socket
from ipaddress import IPv4Address
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
    return _expect(path, *_ask(path, "GET", "/api/status"), what="a status")


def fetch_leases(path: Path) -> dict[str, Any]:
    """`now` in Unix time and `leases`, as `bootnode.dhcp.book` makes them.

    Raises:
        BootnodeError: as for `fetch_status`.
    """
    return _expect(path, *_ask(path, "GET", "/api/leases"), what="its leases")


def end_lease(path: Path, address: IPv4Address) -> bool:
    """Have the daemon end a lease or quarantine; False if there is none.

    Raises:
        BootnodeError: as for `fetch_status`.
    """
    response, body = _ask(path, "POST", f"/api/leases/{address}/release")
    if response.status == 404:
        return False
    if response.status == 507:
        raise BootnodeError(
            f"{address} is released for now, but that could not be written to disk, and after a "
            "restart the lease is back: see bootnoded's log, make room, and release it again"
        )
    _expect(path, response, body, what="that it has")
    return True


def _ask(path: Path, method: str, url: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = _UnixConnection(path)
    try:
        connection.request(method, url)
        response = connection.getresponse()
        return response, response.read()
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


def _expect(
    path: Path, response: http.client.HTTPResponse, body: bytes, *, what: str
) -> dict[str, Any]:
    """The JSON object that a response holds."""
    if response.status != 200:
        raise BootnodeError(f"{path}: bootnoded answered {response.status} {response.reason}")
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise BootnodeError(f"{path}: bootnoded answered with something else than {what}")
    return told
