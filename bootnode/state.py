"""What must survive a restart: leases and boot-once marks, in one SQLite file.

Rules: a lease is on the disk before its ACK leaves (WAL, synchronous=FULL; many leases share one
commit). Leases are written one behind the other, and the last word on an address counts: a storm
fills a few pages, where a table in order would change one for each lease. Now and then superseded
rows are removed. A file that SQLite cannot make sense of is renamed out of the way and an empty one
takes its place: leases come back as the clients renew, a daemon that does not start brings nobody
back. Every other trouble with the file (missing directory, no permission, a newer version's) is a
StartError.

One thread writes at a time; the daemon gives the store an executor with one worker. Failures of
`save` and the like are `sqlite3.Error`.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from bootnode.addresses import MacAddress
from bootnode.dhcp.leases import Lease, LeaseState
from bootnode.errors import StartError

log = logging.getLogger(__name__)

SCHEMA_VERSION = 2
_LEASE_TABLE = """
CREATE TABLE lease (
    number INTEGER PRIMARY KEY,
    address TEXT NOT NULL,
    mac TEXT NOT NULL,
    state TEXT NOT NULL,
    expires_s REAL NOT NULL,
    client_id BLOB,
    hostname TEXT NOT NULL
);
"""
_SCHEMA = f"""
{_LEASE_TABLE}
CREATE TABLE spent_boot (
    node TEXT NOT NULL,
    image TEXT NOT NULL,
    PRIMARY KEY (node, image)
) WITHOUT ROWID;
"""
# The first one had one row for each address.
_FROM_VERSION_1 = "".join(
    (
        "DROP INDEX lease_of_mac; ALTER TABLE lease RENAME TO lease_1;",
        _LEASE_TABLE,
        "INSERT INTO lease (address, mac, state, expires_s, client_id, hostname)",
        " SELECT address, mac, state, expires_s, client_id, hostname FROM lease_1;",
        "DROP TABLE lease_1;",
    )
)
_COMPACT = "DELETE FROM lease WHERE number NOT IN (SELECT max(number) FROM lease GROUP BY address)"
_BUSY_TIMEOUT_S = 5.0
_ROW = "(?, ?, ?, ?, ?, ?)"
ROWS_MAX: Final = 1000
"""Rows of one statement; SQLite takes 32,766 values."""
SUPERSEDED_MAX = 100_000
"""Rows written since superseded ones were removed, beyond those that were left then. To remove so
many takes a third of a second, in which leases wait."""


class LeaseStore:
    """Leases and boot-once marks on disk.

    Raises:
        StartError: the file cannot be opened or belongs to a newer bootnode.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.damage: str | None = None
        """What was wrong with the file and where it is now, if it had to be set aside."""
        try:
            self._connection, self._leases = _open(path)
        except _DamagedError as error:
            aside = _set_aside(path)
            self.damage = (
                f"{path}: {error}; moved to {aside}, starting without leases and boot-once marks"
            )
            self._connection, self._leases = _open(path)
        self._left = len(self._leases)
        (rows,) = self._connection.execute("SELECT count(*) FROM lease").fetchone()
        self._written = rows - self._left

    def take_leases(self) -> list[Lease]:
        """Every lease that was stored when the file was opened; once, for they take memory."""
        leases, self._leases = self._leases, []
        return leases

    def save(self, leases: Sequence[Lease], *, clock_offset_s: float = 0.0) -> None:
        """Store leases in one transaction; each supersedes what was said of its address before.

        `clock_offset_s` leads from the clock of the leases to the one that counts after a restart.
        """
        with self._connection:
            if len(leases) > ROWS_MAX:  # else the one statement is a transaction by itself
                self._connection.execute("BEGIN")
            for at in range(0, len(leases), ROWS_MAX):
                self._insert(leases[at : at + ROWS_MAX], clock_offset_s)
        self._written += len(leases)
        if self._written > self._left + SUPERSEDED_MAX:
            self._remove_superseded()

    def _remove_superseded(self) -> None:
        self._written = 0
        try:
            self._connection.execute(_COMPACT)
            (self._left,) = self._connection.execute("SELECT count(*) FROM lease").fetchone()
        except sqlite3.Error as error:
            # What was to be stored is stored; the file goes on growing until the next time.
            log.warning("%s: superseded leases stay in it for now: %s", self._path, error)

    def _insert(self, leases: Sequence[Lease], clock_offset_s: float) -> None:
        values: list[object] = []
        for lease in leases:
            values += (
                str(lease.address),
                str(lease.mac),
                lease.state.value,
                lease.expires_s + clock_offset_s,
                lease.client_id,
                lease.hostname,
            )
        # One statement: each of them waits for the interpreter's lock when it ends, and while
        # packets pour in, that takes longer than the rows.
        into = "lease (address, mac, state, expires_s, client_id, hostname)"
        places = ", ".join([_ROW] * len(leases))
        self._connection.execute(f"INSERT INTO {into} VALUES {places}", values)  # noqa: S608

    def spent_boots(self) -> set[tuple[str, str]]:
        """The nodes and images of `boot: once` that have had their boot."""
        return set(self._connection.execute("SELECT node, image FROM spent_boot"))

    def spend_boot(self, node: str, image: str) -> None:
        """Mark that a node has had its one boot of an image."""
        with self._connection:
            self._connection.execute(
                "INSERT OR IGNORE INTO spent_boot VALUES (?, ?)", (node, image)
            )

    def rearm_boot(self, node: str) -> None:
        """Let a node boot once more, whatever the image."""
        with self._connection:
            self._connection.execute("DELETE FROM spent_boot WHERE node = ?", (node,))

    def close(self) -> None:
        """Close the file; the store is of no use afterwards."""
        self._connection.close()


class _DamagedError(Exception):
    """The file is there and is not a database of ours."""


def _open(path: Path) -> tuple[sqlite3.Connection, list[Lease]]:
    try:
        # Without an isolation level each statement is a transaction, unless we begin one.
        connection = sqlite3.connect(
            path, timeout=_BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None
        )
    except sqlite3.Error as error:
        raise StartError(f"{path}: {error} (want a file in a directory we may write)") from None
    try:
        leases = _prepare(connection, path)
    except sqlite3.DatabaseError as error:
        connection.close()
        if getattr(error, "sqlite_errorcode", None) in (
            sqlite3.SQLITE_CORRUPT,
            sqlite3.SQLITE_NOTADB,
        ):
            raise _DamagedError(str(error)) from None
        raise StartError(
            f"{path}: {error}: give it to the user that runs bootnoded (`chown bootnode: "
            f"{path}*`), and see that no other program has it open"
        ) from None
    except Exception:
        connection.close()
        raise
    return connection, leases


def _prepare(connection: sqlite3.Connection, path: Path) -> list[Lease]:
    """Check the file from end to end, make the tables in a new one, and read the leases."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise _DamagedError(verdict)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise StartError(
            f"{path}: written by a newer bootnode (schema {version}, this one knows "
            f"{SCHEMA_VERSION}): upgrade, or move the file away"
        )
    if version < SCHEMA_VERSION:
        change = _FROM_VERSION_1 if version == 1 else _SCHEMA
        connection.executescript(f"BEGIN; {change} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    try:
        return _read_leases(connection)
    except ValueError as error:
        raise _DamagedError(str(error)) from None


def _read_leases(connection: sqlite3.Connection) -> list[Lease]:
    """The last word on each address, in the order in which they were written."""
    rows = connection.execute(
        "SELECT address, mac, state, expires_s, client_id, hostname FROM lease ORDER BY number"
    )
    last: dict[str, tuple[str, str, float, bytes | None, str]] = {}
    for address, *rest in rows:
        last.pop(address, None)
        last[address] = tuple(rest)
    return [
        Lease(
            address=IPv4Address(address),
            mac=MacAddress(bytes.fromhex(mac.replace(":", ""))),
            state=LeaseState(state),
            expires_s=expires_s,
            client_id=client_id,
            hostname=hostname,
        )
        for address, (mac, state, expires_s, client_id, hostname) in last.items()
    ]


def _set_aside(path: Path) -> Path:
    """Rename the file to the first name that is free; SQLite drops its log with it."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return path.rename(aside)
