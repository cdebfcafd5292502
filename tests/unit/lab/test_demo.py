"""The demo with a scripted lab: what it shows, and how it ends."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
from rich.console import Console

from bootnode.lab import demo
from bootnode.lab.demo import NodeProgress, StageTime, run_demo, way


@dataclass(frozen=True, kw_only=True)
class ScriptedMachine:
    name: str
    is_on: bool = True
    seconds: float = 3.25
    console_text: str = "Probing...\nlast words\n"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_POLL_S", 0.0)


def progress(node: str, *stages: str, detail: str = "") -> NodeProgress:
    return NodeProgress(
        node=node,
        stages=tuple(
            StageTime(stage=stage, seconds=1.0 + index, detail=detail)
            for index, stage in enumerate(stages)
        ),
    )


def script(*answers: Sequence[NodeProgress]) -> Callable[[], Sequence[NodeProgress]]:
    steps: Iterator[Sequence[NodeProgress]] = iter(answers)
    return lambda: next(steps)


def shown(
    machines: Sequence[ScriptedMachine],
    read: Callable[[], Sequence[NodeProgress]],
    *,
    timeout_s: float = 60.0,
    terminal: bool = False,
) -> tuple[int, str]:
    text = io.StringIO()
    output = Console(file=text, force_terminal=terminal, width=120)
    status = run_demo(machines, read, timeout_s=timeout_s, output=output)
    return status, text.getvalue()


BOTH = (ScriptedMachine(name="node-000"), ScriptedMachine(name="node-001"))
ARRIVAL: tuple[list[NodeProgress], ...] = (
    [],
    [progress("node-000", "discover")],
    [progress("node-000", "discover", "up"), progress("node-001", "discover")],
    [progress("node-000", "discover", "up"), progress("node-001", "discover", "up")],
)


def test_stages_become_lines_and_all_up_is_success() -> None:
    status, text = shown(BOTH, script(*ARRIVAL))
    assert status == 0
    assert text.splitlines() == [
        "   1.0 s  node-000  discover",
        "   2.0 s  node-000  up",
        "   1.0 s  node-001  discover",
        "   2.0 s  node-001  up",
        "",
        "node-000  discover 1.0 s  up 2.0 s",
        "node-001  discover 1.0 s  up 2.0 s",
    ]


def test_a_terminal_gets_a_table_of_all_nodes() -> None:
    status, text = shown(BOTH, script(*ARRIVAL), terminal=True)
    assert status == 0
    assert "Since power-on" in text
    assert "3.2 s" in text  # node-001's clock runs while it is on its way
    assert text.index("node-001") > text.index("node-000")


@pytest.mark.parametrize(
    ("machine", "answer", "timeout_s", "why"),
    [
        (
            ScriptedMachine(name="n"),
            progress("n", "init", "failed", detail="no network"),
            60.0,
            "n failed: no network; its console ended with:",
        ),
        (ScriptedMachine(name="n"), progress("n", "failed"), 60.0, "n failed: no reason given;"),
        (
            ScriptedMachine(name="n", is_on=False),
            progress("n"),
            60.0,
            "n went off after stage 'power-on';",
        ),
        (ScriptedMachine(name="n"), progress("n", "kernel"), -1.0, "n is still at 'kernel' after"),
    ],
)
def test_trouble_ends_it_with_the_last_console_lines(
    machine: ScriptedMachine, answer: NodeProgress, timeout_s: float, why: str
) -> None:
    status, text = shown([machine], script([answer]), timeout_s=timeout_s)
    assert status == 1
    assert why in text
    assert text.endswith("Probing...\nlast words\n")


def test_a_kernel_panic_is_not_waited_for() -> None:
    last_words = "[    9.0] Kernel panic - not syncing: No working init found."
    status, text = shown(
        [ScriptedMachine(name="n", console_text=last_words)], script([progress("n", "initrd")])
    )
    assert status == 1
    assert f"n panicked after stage 'initrd'; its console ended with:\n{last_words}" in text


def test_a_node_that_is_up_is_no_trouble_when_another_is_late() -> None:
    answer = [progress("node-000", "up"), progress("node-001", "kernel")]
    status, text = shown(BOTH, script(answer), timeout_s=-1.0)
    assert status == 1
    assert "node-000 is" not in text
    assert "node-001 is still at 'kernel'" in text


def test_brackets_are_no_markup() -> None:
    machine = ScriptedMachine(name="n", console_text="[red]x[/] [    0.1] y")
    _, text = shown([machine], script([progress("n", "failed", detail="[bold]")]))
    assert "failed: [bold]" in text
    assert text.endswith("[red]x[/] [    0.1] y\n")


def test_the_way_of_a_node_that_has_not_begun_is_its_name() -> None:
    assert way(progress("n")) == "n"
