"""The SQLite store: what is saved is there again, and what is broken is set aside."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from bootnode import state
from bootnode.addresses import MacAddress
from bootnode.dhcp.leases import Lease, LeaseState
from bootnode.errors import StartError
from bootnode.state import LeaseStore


def lease(
    octet: int, card: int, *, state: LeaseState = LeaseState.BOUND, expires_s: float = 1.7e9
) -> Lease:
    return Lease(
        address=IPv4Address(f"10.77.0.{octet}"),
        mac=MacAddress(bytes((2, 0, 0, 0, 0, card))),
        state=state,
        expires_s=expires_s,
        client_id=None if card % 2 else b"\1\0\xff",
        hostname="caf\xe9\0",
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.sqlite"


def reopened(path: Path) -> list[Lease]:
    store = LeaseStore(path)
    assert store.damage is None
    try:
        return sorted(store.take_leases(), key=lambda lease: lease.address)
    finally:
        store.close()


def saved(path: Path, *batches: list[Lease]) -> list[Lease]:
    store = LeaseStore(path)
    for batch in batches:
        store.save(batch)
    store.close()
    return reopened(path)


def test_leases_come_back_as_they_were(path: Path) -> None:
    leases = [
        lease(10, 1),
        lease(11, 2, state=LeaseState.RELEASED),
        lease(12, 3, state=LeaseState.DECLINED, expires_s=1.7e9 + 0.125),
        lease(13, 4, expires_s=float("inf")),
    ]
    assert saved(path, leases) == leases


def test_a_new_file_is_empty(path: Path) -> None:
    assert saved(path) == []
    assert saved(path, []) == []


@pytest.mark.parametrize(
    ("batches", "left"),
    [
        ([[lease(10, 1)], [lease(10, 1, expires_s=1.8e9)]], [lease(10, 1, expires_s=1.8e9)]),
        # An address goes to another client, a client to another address, and both in one batch.
        ([[lease(10, 1)], [lease(10, 2)]], [lease(10, 2)]),
        # One client may have a lease in each of several networks: the table of each decides.
        ([[lease(10, 1)], [lease(11, 1)]], [lease(10, 1), lease(11, 1)]),
        (
            [[lease(10, 1), lease(11, 2)], [lease(11, 1), lease(10, 2)]],
            [lease(10, 2), lease(11, 1)],
        ),
        # Who declined an address gets another one, and the quarantine stays.
        (
            [[lease(10, 1)], [lease(10, 1, state=LeaseState.DECLINED)], [lease(11, 1)]],
            [lease(10, 1, state=LeaseState.DECLINED), lease(11, 1)],
        ),
        (
            [[lease(10, 1, state=LeaseState.DECLINED)], [lease(10, 2)]],
            [lease(10, 2)],
        ),
    ],
)
def test_the_last_word_on_an_address_counts(
    path: Path, batches: list[list[Lease]], left: list[Lease]
) -> None:
    assert saved(path, *batches) == left


def test_what_was_superseded_is_removed_in_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "SUPERSEDED_MAX", 20)
    store = LeaseStore(path)
    for round_ in range(30):
        store.save([lease(octet, octet, expires_s=1.7e9 + round_) for octet in range(10, 13)])
        store.save([lease(20 + round_ % 2, 1)])
        (rows,) = store._connection.execute("SELECT count(*) FROM lease").fetchone()
        assert rows <= 30
    store.close()
    last = [lease(octet, octet, expires_s=1.7e9 + 29) for octet in range(10, 13)]
    assert reopened(path) == [*last, lease(20, 1), lease(21, 1)]


def test_leases_are_read_in_the_order_in_which_they_were_written(path: Path) -> None:
    store = LeaseStore(path)
    store.save([lease(10, 1), lease(11, 2), lease(12, 1)])
    store.save([lease(10, 1)])
    store.close()
    store = LeaseStore(path)
    assert store.take_leases() == [lease(11, 2), lease(12, 1), lease(10, 1)]
    store.close()


def test_what_is_stored_is_stored_though_the_rest_cannot_be_removed(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(state, "SUPERSEDED_MAX", 3)
    monkeypatch.setattr(state, "_COMPACT", "DELETE FROM nowhere")
    store = LeaseStore(path)
    for _ in range(9):
        store.save([lease(10, 1)])
    store.close()
    assert len(caplog.messages) == 2
    assert "superseded leases stay in it for now: no such table" in caplog.text
    assert reopened(path) == [lease(10, 1)]


def test_a_file_of_the_first_schema_is_taken_over(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(
        """
        CREATE TABLE lease (
            address TEXT PRIMARY KEY, mac TEXT NOT NULL, state TEXT NOT NULL,
            expires_s REAL NOT NULL, client_id BLOB, hostname TEXT NOT NULL
        ) WITHOUT ROWID;
        CREATE UNIQUE INDEX lease_of_mac ON lease (mac) WHERE state != 'declined';
        CREATE TABLE spent_boot (
            node TEXT NOT NULL, image TEXT NOT NULL, PRIMARY KEY (node, image)
        ) WITHOUT ROWID;
        INSERT INTO lease VALUES
            ('10.77.0.10', '02:00:00:00:00:01', 'bound', 1.7e9, NULL, 'café');
        INSERT INTO spent_boot VALUES ('n1', 'failsafe');
        PRAGMA user_version = 1;
        """
    )
    connection.close()
    assert saved(path, [lease(11, 3)]) == [replace(lease(10, 1), hostname="café"), lease(11, 3)]
    store = LeaseStore(path)
    assert store.spent_boots() == {("n1", "failsafe")}
    store.close()


def test_a_batch_is_saved_whole_or_not_at_all(path: Path) -> None:
    store = LeaseStore(path)
    unsound = lease(11, 2, expires_s=float("nan"))  # SQLite reads NaN as NULL.
    with pytest.raises(sqlite3.IntegrityError):
        store.save([lease(10, 1), unsound])
    store.close()
    assert reopened(path) == []


def test_another_thread_may_write(path: Path) -> None:
    store = LeaseStore(path)
    writer = threading.Thread(target=store.save, args=([lease(10, 1)],))
    writer.start()
    writer.join()
    store.close()
    assert reopened(path) == [lease(10, 1)]


def test_a_saved_lease_survives_without_close(path: Path) -> None:
    store = LeaseStore(path)
    store.save([lease(10, 1)])
    assert reopened(path) == [lease(10, 1)]
    store.close()


def test_writes_reach_the_disk_before_they_return(path: Path) -> None:
    store = LeaseStore(path)
    settings = [
        store._connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous")
    ]
    store.close()
    assert settings == ["wal", 2]


def test_leases_are_read_once_and_handed_over(path: Path) -> None:
    saved(path, [lease(10, 1)])
    store = LeaseStore(path)
    assert store.take_leases() == [lease(10, 1)]
    assert store.take_leases() == []
    store.close()


def test_times_on_disk_are_the_wall_clocks(path: Path) -> None:
    store = LeaseStore(path)
    store.save([lease(10, 1, expires_s=1.7e9)], clock_offset_s=-3600.0)
    store.close()
    assert reopened(path) == [lease(10, 1, expires_s=1.7e9 - 3600)]


def test_boot_once_marks(path: Path) -> None:
    store = LeaseStore(path)
    store.spend_boot("node-000", "failsafe")
    store.spend_boot("node-000", "failsafe")
    store.spend_boot("node-000", "compute")
    store.spend_boot("node-001", "compute")
    store.close()
    store = LeaseStore(path)
    assert store.spent_boots() == {
        ("node-000", "failsafe"),
        ("node-000", "compute"),
        ("node-001", "compute"),
    }
    store.rearm_boot("node-000")
    store.rearm_boot("node-999")
    assert store.spent_boots() == {("node-001", "compute")}
    store.close()


def overwrite(path: Path) -> None:
    path.write_bytes(b"this is no database" * 100)


def scramble(path: Path) -> None:
    """Break a page behind the first, which holds the schema."""
    data = bytearray(path.read_bytes())
    data[4096:8192] = b"\xa5" * 4096
    path.write_bytes(data)


def write_nonsense(path: Path) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE lease SET mac = 'not a MAC'")
    connection.close()


@pytest.mark.parametrize("harm", [overwrite, scramble, write_nonsense])
def test_a_damaged_file_is_set_aside(path: Path, harm: object) -> None:
    assert callable(harm)
    for number in (1, 2):
        saved(path, [lease(10, 1)])
        harm(path)
        broken = path.read_bytes()
        store = LeaseStore(path)
        aside = path.with_name(f"state.sqlite.damaged-{number}")
        assert store.damage is not None
        assert store.damage.startswith(f"{path}: ")
        assert store.damage.endswith(
            f"; moved to {aside}, starting without leases and boot-once marks"
        )
        assert store.take_leases() == []
        store.save([lease(11, 2)])
        store.close()
        assert aside.read_bytes() == broken
        path.unlink()


@pytest.mark.parametrize("companion", ["wal", "shm"])
def test_what_a_lost_file_left_behind_does_no_harm(path: Path, companion: str) -> None:
    path.with_name(f"state.sqlite-{companion}").write_bytes(b"\xa5" * 8192)
    assert saved(path, [lease(10, 1)]) == [lease(10, 1)]


def test_a_newer_file_is_left_alone(path: Path) -> None:
    saved(path, [lease(10, 1)])
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 3")
    connection.close()
    with pytest.raises(StartError) as caught:
        LeaseStore(path)
    assert str(caught.value) == (
        f"{path}: written by a newer bootnode (schema 3, this one knows 2): "
        "upgrade, or move the file away"
    )


def test_a_missing_directory_is_a_start_error(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="unable to open database file"):
        LeaseStore(tmp_path / "nowhere" / "state.sqlite")


def test_a_database_of_something_else_is_a_start_error(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE lease (x)")
    connection.close()
    with pytest.raises(StartError, match="table lease already exists"):
        LeaseStore(path)
