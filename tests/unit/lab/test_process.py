"""The last lines of a text; the rest of process.py is tested on real processes in tests/lab."""

from __future__ import annotations

from pathlib import Path

from bootnode.lab.process import TAIL_LINES, last_lines, tail


def test_the_last_lines_leave_blanks_out() -> None:
    text = "\n\n".join(f"line {number}  " for number in range(100))
    lines = last_lines(text).splitlines()
    assert len(lines) == TAIL_LINES
    assert (lines[0], lines[-1]) == ("line 70", "line 99")


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"one\n\ntwo \xff\n")
    assert tail(tmp_path / "a.log") == "one\ntwo \ufffd"
    assert tail(tmp_path / "none.log") == ""
