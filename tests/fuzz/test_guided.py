"""A short coverage-guided run of each target from the captures on; `guided` runs longer ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

atheris = pytest.importorskip("atheris", reason="there is no atheris for this machine's Python")

from tests.fuzz import guided  # noqa: E402  # it needs atheris

RUN_S = 5
"""Seconds for each target."""
PLANTED_S = 20
"""Seconds for the fault that it must find; a tenth of that is usual."""
START_S = 30
"""Seconds that a run may take on top, to start and to read its corpus on a busy machine."""
ROOT = Path(__file__).parents[2]


def run(target: str, folder: Path, seconds: int) -> tuple[int, str]:
    """Fuzz; the exit status, and what was said, with the input that crashed it if one did."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(guided.seeds(target)):
        (corpus / f"seed-{number:03}").write_bytes(seed)
    lines = ["".join(f"\\x{byte:02x}" for byte in word) for word in guided.words(target)]
    (folder / "words").write_text("".join(f'"{line}"\n' for line in lines))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.fuzz.guided", target, corpus, "-max_len=3000"),
            *(f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048"),
            *(f"-artifact_prefix={folder}/", f"-dict={folder}/words"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + START_S,
    )
    said = done.stdout + done.stderr
    for crash in [*folder.glob("crash-*"), *folder.glob("timeout-*"), *folder.glob("oom-*")]:
        said += (
            f"\ninput: {crash.read_bytes().hex()}\nto see it again, write these bytes to a file:"
            f" python -m tests.fuzz.guided {target} FILE\n"
        )
    return done.returncode, said


@pytest.mark.parametrize("target", ["packet", "options", "responder", "tftp"])
def test_no_input_breaks_it(target: str, tmp_path: Path) -> None:
    status, said = run(target, tmp_path, RUN_S)
    assert status == 0, said[-8000:]
    assert "Done " in said, said[-2000:]


def test_it_finds_a_planted_fault(tmp_path: Path) -> None:
    """Blind tries would need four thousand million: what leads there is coverage."""
    status, said = run("planted", tmp_path, PLANTED_S)
    assert status != 0
    assert "the planted fault" in said
    assert f"input: {b'boot'.hex()}" in said
