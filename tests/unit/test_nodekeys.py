"""Machine ids and host keys: the same for a node each time, other ones for every other node."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest

from bootnode.errors import KeysError
from bootnode.nodekeys import NodeKeys, ShownKeys, StandInKeys


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "node-secret"


def test_the_secret_is_made_when_first_needed_and_kept(file: Path) -> None:
    keys = NodeKeys(file, may_make=True)
    assert not file.exists()
    machine_id = keys.machine_id("alder")
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["node-secret"]
    assert NodeKeys(file, may_make=True).machine_id("alder") == machine_id
    assert NodeKeys(file, may_make=False).machine_id("Alder") == machine_id
    file.unlink()
    assert NodeKeys(file, may_make=True).machine_id("alder") != machine_id


def test_keys_follow_from_the_secret_alone(file: Path) -> None:
    file.write_text("0" * 64 + "\n")
    keys = NodeKeys(file, may_make=False)
    assert keys.machine_id("alder") == "f76dea7268e14d1a9e7ecf586f62b65a"
    assert keys.ssh_host_public_key("alder").startswith("ssh-ed25519 AAAA")


def test_a_machine_id_is_what_systemd_makes_of_random_bytes(file: Path) -> None:
    keys = NodeKeys(file, may_make=True)
    ids = {keys.machine_id(f"node-{number}") for number in range(100)}
    assert len(ids) == 100
    assert {UUID(one).version for one in ids} == {4}


def test_openssh_reads_the_host_key(file: Path, tmp_path: Path) -> None:
    keys = NodeKeys(file, may_make=True)
    private = tmp_path / "key"
    private.touch(mode=0o600)
    private.write_text(keys.ssh_host_key("alder"))
    command = ["ssh-keygen", "-y", "-P", "", "-f", str(private)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout.split()[:2] == keys.ssh_host_public_key("alder").split()
    assert keys.ssh_host_public_key("birch") != keys.ssh_host_public_key("alder")


def test_many_who_need_it_first_get_the_same(file: Path) -> None:
    def machine_id(_: int) -> str:
        return NodeKeys(file, may_make=True).machine_id("alder")

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(machine_id, range(32)))) == 1
    assert [path.name for path in file.parent.iterdir()] == ["node-secret"]


@pytest.mark.parametrize("content", ["", "00", "not hexadecimal", "0" * 63 + "é", "0" * 66])
def test_a_damaged_secret_is_left_alone(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(KeysError, match=r"node-secret is damaged: put it back from a backup"):
        NodeKeys(file, may_make=True).machine_id("alder")
    assert file.read_text() == content


def test_who_may_not_make_it_says_that_it_is_not_there(file: Path) -> None:
    with pytest.raises(KeysError, match=r"made from: No such file or directory$"):
        NodeKeys(file, may_make=False).machine_id("alder")
    assert not file.exists()


def test_a_folder_that_is_not_there_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="No such file or directory"):
        NodeKeys(tmp_path / "gone" / "node-secret", may_make=True).machine_id("alder")


def test_no_private_key_is_shown(file: Path) -> None:
    shown = ShownKeys(file, may_make=True)
    for keys in (shown, StandInKeys()):
        assert keys.ssh_host_key("alder") == "(the private ssh host key of alder)\n"
        assert len(keys.machine_id("alder")) == 32
    assert shown.machine_id("alder") == NodeKeys(file, may_make=False).machine_id("alder")
    assert StandInKeys().ssh_host_public_key("alder") == "ssh-ed25519 (of-alder)"
