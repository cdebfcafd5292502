from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from bootnode.errors import ImageError
from bootnode.image.run import SHOWN_LINES, run


@pytest.fixture
def log(tmp_path: Path) -> Iterator[IO[bytes]]:
    with (tmp_path / "build.log").open("wb") as file:
        yield file


def logged(log: IO[bytes]) -> str:
    log.flush()
    return Path(log.name).read_text()


def test_stdout_is_returned_and_everything_is_logged(log: IO[bytes]) -> None:
    said = run(["sh", "-c", "echo out; echo err >&2"], log=log, timeout_s=10)
    assert said == "out\n"
    assert logged(log) == "$ sh -c 'echo out; echo err >&2'\nerr\nout\n"


def test_a_program_gets_its_folder_and_environment_and_no_input(
    log: IO[bytes], tmp_path: Path
) -> None:
    script = "pwd; echo $GREETING; echo $LC_ALL; cat; command -v depmod || true"
    said = run(["sh", "-c", script], log=log, timeout_s=10, cwd=tmp_path, env={"GREETING": "hello"})
    assert said.splitlines()[:3] == [str(tmp_path), "hello", "C.UTF-8"]


def test_a_failure_names_command_status_and_last_words(log: IO[bytes]) -> None:
    run(["echo", "words of the command before"], log=log, timeout_s=10)
    with pytest.raises(ImageError) as caught:
        run(["sh", "-c", "seq 100; exit 3"], log=log, timeout_s=10)
    lines = str(caught.value).splitlines()
    assert lines[0] == "`sh -c 'seq 100; exit 3'` failed with exit status 3:"
    assert lines[1:] == [f"    {number}" for number in range(101 - SHOWN_LINES, 101)]


def test_a_failure_without_words_says_so(log: IO[bytes]) -> None:
    with pytest.raises(ImageError, match=r"^`false` failed with exit status 1 and said nothing$"):
        run(["false"], log=log, timeout_s=10)


def test_a_command_may_have_a_name(log: IO[bytes]) -> None:
    with pytest.raises(ImageError, match=r"^`the script` failed with exit status 1 and"):
        run(["false"], log=log, timeout_s=10, name="the script")
    with pytest.raises(ImageError, match=r"^`the script` was ended: it took longer than 0\.1 s$"):
        run(["sleep", "60"], log=log, timeout_s=0.1, name="the script")
    assert "$ sleep 60" in logged(log)


def test_a_signal_is_named(log: IO[bytes]) -> None:
    with pytest.raises(ImageError, match="failed with signal SIGTERM"):
        run(["sh", "-c", "kill $$"], log=log, timeout_s=10)


def test_a_missing_program_names_its_package(
    log: IO[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ImageError, match=r"^the program no-such-tool is missing$"):
        run(["no-such-tool"], log=log, timeout_s=10)
    monkeypatch.setattr("bootnode.image.run._environment", lambda _extra: {"PATH": "/nowhere"})
    with pytest.raises(ImageError, match="depmod is missing: install the Debian package kmod"):
        run(["depmod"], log=log, timeout_s=10)


def test_a_missing_folder_is_not_a_missing_program(log: IO[bytes], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run(["true"], log=log, timeout_s=10, cwd=tmp_path / "gone")


def test_a_deadline_ends_the_program_and_what_it_started(log: IO[bytes], tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"sleep 60 & echo $! >{pid_file}; wait"
    with pytest.raises(ImageError, match=r"was ended: it took longer than 0\.5 s"):
        run(["sh", "-c", script], log=log, timeout_s=0.5)
    with pytest.raises(ProcessLookupError):
        wait_until_gone(int(pid_file.read_text()))


def wait_until_gone(pid: int) -> None:
    """Raises ProcessLookupError when the process is gone, zombies counted as gone."""
    for _ in range(1000):
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            raise ProcessLookupError
        os.sched_yield()
