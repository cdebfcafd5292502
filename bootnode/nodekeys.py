"""What a node has over all its boots though it keeps nothing itself: machine id and ssh host key.

Both are derived from one secret of this server and the name of the node by HMAC-SHA256. So there is
one file to keep and nothing to store for a node; a node whose hardware is replaced stays the same
node, and nodes of one name on two servers are two. Who has the secret can be any node.

Limits: PUBLIC_KEYS_KEPT public keys in memory.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from functools import lru_cache
from pathlib import Path
from tempfile import mkstemp
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from bootnode.errors import KeysError

SECRET_BYTES = 32
PUBLIC_KEYS_KEPT = 65536


class NodeKeys:
    """The keys of all nodes of one server."""

    def __init__(self, file: Path, *, may_make: bool) -> None:
        """`file` holds the secret; it is read, or made if it `may_make` it, when first needed."""
        self._file = file
        self._may_make = may_make
        self._secret: bytes | None = None

    def machine_id(self, node: str) -> str:
        """What systemd wants in /etc/machine-id: a random UUID (version 4) in 32 digits.

        Raises:
            KeysError: the secret cannot be read or made.
        """
        return UUID(bytes=self._derive("machine-id", node)[:16], version=4).hex

    def ssh_host_key(self, node: str) -> str:
        """The node's private key (Ed25519) as sshd reads it.

        Raises:
            KeysError: the secret cannot be read or made.
        """
        key = Ed25519PrivateKey.from_private_bytes(self._derive("ssh-host-ed25519", node))
        return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()

    def ssh_host_public_key(self, node: str) -> str:
        """Its public half, as known_hosts has it behind the name.

        Raises:
            KeysError: the secret cannot be read or made.
        """
        return _public_key(self._derive("ssh-host-ed25519", node))

    def _derive(self, purpose: str, node: str) -> bytes:
        if self._secret is None:
            self._secret = self._load()
        # Node names differ by more than case.
        message = f"{purpose}\0{node.lower()}".encode()
        return hmac.digest(self._secret, message, hashlib.sha256)

    def _load(self) -> bytes:
        try:
            if self._may_make and not self._file.exists():
                _make(self._file)
            text = self._file.read_text("ascii")
            secret = bytes.fromhex(text)
        except OSError as error:
            raise KeysError(
                f"{self._file}, which node keys are made from: {error.strerror}"
            ) from error
        except ValueError:
            secret = b""
        if len(secret) != SECRET_BYTES:
            raise KeysError(
                f"{self._file} is damaged: put it back from a backup, or delete it and all nodes "
                "get new machine ids and host keys"
            )
        return secret


class ShownKeys(NodeKeys):
    """Those that a person at a terminal may see."""

    def ssh_host_key(self, node: str) -> str:
        """A line that says what stands there."""
        return _hidden(node)


class StandInKeys:
    """Of the same shape as a node's own, for looking whether templates can be rendered."""

    def machine_id(self, node: str) -> str:
        """32 digits."""
        return hashlib.sha256(node.encode()).hexdigest()[:32]

    def ssh_host_key(self, node: str) -> str:
        """No key."""
        return _hidden(node)

    def ssh_host_public_key(self, node: str) -> str:
        """No key."""
        return f"ssh-ed25519 (of-{node})"


def _hidden(node: str) -> str:
    return f"(the private ssh host key of {node})\n"


@lru_cache(maxsize=PUBLIC_KEYS_KEPT)
def _public_key(seed: bytes) -> str:
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _make(file: Path) -> None:
    """Write a new secret; whoever comes first decides, and nobody sees half of it."""
    descriptor, name = mkstemp(dir=file.parent, prefix=f".{file.name}-")  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as content:
            content.write(secrets.token_hex(SECRET_BYTES) + "\n")
            content.flush()
            os.fsync(content.fileno())
        try:
            os.link(name, file)
        except FileExistsError:
            return
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        os.unlink(name)
