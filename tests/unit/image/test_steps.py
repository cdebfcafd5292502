"""Steps: what is skipped, what is made anew, and what a step that ends early leaves behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import pytest

from bootnode.image.steps import RESULT_FILE, Progress, Steps


@dataclass
class Recorder:
    """Steps over a folder, and what they reported and made."""

    steps: Steps
    reports: list[Progress]
    made: list[str] = field(default_factory=list)

    def make(self, text: str, **changes: object) -> str:
        """Make a file of this text, or find the one that is there; returns what it holds."""

        def maker(output: Path) -> dict[str, int]:
            self.made.append(text)
            (output / "file").write_text(text)
            return {"length": len(text)}

        steps = replace(self.steps, **changes)  # type: ignore[arg-type] # given by tests
        result = steps.make("bake", "a cake", {"text": text}, maker)
        assert result.facts == {"length": len(text)}
        return (result.folder / "file").read_text()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[IO[bytes]]:
    with (tmp_path / "build.log").open("wb") as file:
        yield file


@pytest.fixture
def recorder(tmp_path: Path, log: IO[bytes]) -> Recorder:
    reports: list[Progress] = []
    steps = Steps(cache=tmp_path / "cache", log=log, report=reports.append)
    steps.remove_leftovers()
    return Recorder(steps=steps, reports=reports)


def test_a_step_is_made_once_for_the_same_inputs(recorder: Recorder) -> None:
    assert [recorder.make("a"), recorder.make("a")] == ["a", "a"]
    assert recorder.made == ["a"]
    assert [(p.seconds is None, p.is_skipped) for p in recorder.reports] == [
        (True, False),
        (False, False),
        (False, True),
    ]


def test_other_inputs_replace_the_result(recorder: Recorder) -> None:
    assert [recorder.make("a"), recorder.make("b"), recorder.make("a")] == ["a", "b", "a"]
    assert recorder.made == ["a", "b", "a"]
    assert [path.name for path in recorder.steps.cache.iterdir()] == ["bake"]


def test_a_step_can_be_made_anew(recorder: Recorder) -> None:
    recorder.make("a")
    recorder.make("a", anew=frozenset({"bake"}))
    recorder.make("a", anew=frozenset({"another"}))
    assert recorder.made == ["a", "a"]


def test_what_is_made_anew_has_another_mark(recorder: Recorder) -> None:
    def mark(steps: Steps) -> str:
        return steps.make("bake", "a cake", {}, lambda _output: {}).mark

    first = mark(recorder.steps)
    assert mark(recorder.steps) == first
    assert mark(replace(recorder.steps, anew=frozenset({"bake"}))) != first


def fail(_output: Path) -> dict[str, int]:
    raise KeyboardInterrupt


def test_a_step_that_fails_leaves_the_last_result(recorder: Recorder) -> None:
    recorder.make("a")
    with pytest.raises(KeyboardInterrupt):
        recorder.steps.make("bake", "a cake", {"text": "b"}, fail)
    assert [path.name for path in recorder.steps.cache.iterdir()] == ["bake"]
    recorder.make("a")
    assert recorder.made == ["a"]


def damage(folder: Path) -> None:
    (folder / RESULT_FILE).write_text('{"inputs": ')


def remove(folder: Path) -> None:
    (folder / RESULT_FILE).unlink()


@pytest.mark.parametrize("harm", [damage, remove, shutil.rmtree])
def test_a_damaged_result_is_made_again(recorder: Recorder, harm: Callable[[Path], None]) -> None:
    recorder.make("a")
    harm(recorder.steps.cache / "bake")
    assert recorder.make("a") == "a"
    assert recorder.made == ["a", "a"]


def test_what_a_killed_build_left_is_removed(recorder: Recorder) -> None:
    recorder.make("a")
    (recorder.steps.cache / ".step-abc" / "new").mkdir(parents=True)
    of_another = recorder.steps.cache.with_name("another") / ".step-abc"
    of_another.mkdir(parents=True)
    recorder.steps.remove_leftovers()
    assert not of_another.exists()
    assert [path.name for path in recorder.steps.cache.iterdir()] == ["bake"]
    assert recorder.steps.cache.stat().st_mode & 0o777 == 0o700
