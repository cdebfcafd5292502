"""`make demo`: watch the lab's nodes arrive, live, and say how long each part of the way took.

Where the stages come from is the caller's business (the daemon's journal, as a rule): a function
that returns each node's progress so far. On a terminal they are one table that is drawn anew;
elsewhere each new stage is a line, so that a log of it reads as a story.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from bootnode.lab.process import last_lines

UP, FAILED = "up", "failed"
# What Linux says with its last breath; no later stage can follow.
_PANIC = "Kernel panic - not syncing"
_POLL_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """A stage that a node has reached."""

    stage: str
    """discover, offer, …, up; or failed."""
    seconds: float
    """Since the node was switched on."""
    detail: str = ""
    """What was said with it, such as the reason of a failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeProgress:
    """How far a node has come."""

    node: str
    stages: tuple[StageTime, ...] = ()
    """In the order in which they were reached."""

    @property
    def stage(self) -> str:
        """The stage it is in; empty before the first."""
        return self.stages[-1].stage if self.stages else ""


class Machine(Protocol):
    """What the demo needs of a RunningVm."""

    @property
    def name(self) -> str: ...
    @property
    def is_on(self) -> bool: ...
    @property
    def seconds(self) -> float: ...
    @property
    def console_text(self) -> str: ...


def run_demo(
    machines: Sequence[Machine],
    read_progress: Callable[[], Sequence[NodeProgress]],
    *,
    timeout_s: float,
    output: Console | None = None,
) -> int:
    """Show the nodes until all are up (returns 0), or one fails or is late (returns 1).

    Nodes that `read_progress` does not mention have reached nothing yet. Its errors pass through.
    """
    output = output or Console()
    deadline = time.monotonic() + timeout_s
    view = _LiveView(output, machines) if output.is_terminal else _LineView(output)
    with view.shown():
        while True:
            progress = _by_machine(machines, read_progress())
            view.show(progress)
            late = time.monotonic() > deadline
            troubles = [
                trouble
                for machine, node in zip(machines, progress, strict=True)
                if (trouble := _trouble(machine, node, late=late, timeout_s=timeout_s))
            ]
            if troubles or all(node.stage == UP for node in progress):
                break
            time.sleep(_POLL_S)
    _print(output, "")
    for line in [*map(way, progress), *troubles]:
        _print(output, line)
    return 1 if troubles else 0


def way(node: NodeProgress) -> str:
    """A node's way in one line: `node-000  discover 2.1 s  ack 2.2 s  …  up 9.8 s`."""
    return "  ".join([node.node, *(f"{s.stage} {s.seconds:.1f} s" for s in node.stages)])


def _by_machine(
    machines: Sequence[Machine], progress: Sequence[NodeProgress]
) -> list[NodeProgress]:
    known = {node.node: node for node in progress}
    return [known.get(m.name, NodeProgress(node=m.name)) for m in machines]


def _trouble(machine: Machine, node: NodeProgress, *, late: bool, timeout_s: float) -> str:
    """Why this node will not come up any more, with its last console lines; or nothing."""
    if node.stage == UP:
        return ""
    if node.stage == FAILED:
        why = f"failed: {node.stages[-1].detail or 'no reason given'}"
    elif _PANIC in machine.console_text:
        why = f"panicked after stage '{node.stage or 'power-on'}'"
    elif not machine.is_on:
        why = f"went off after stage '{node.stage or 'power-on'}'"
    elif late:
        why = f"is still at '{node.stage or 'power-on'}' after {timeout_s:g} s"
    else:
        return ""
    return f"\n{node.node} {why}; its console ended with:\n{last_lines(machine.console_text)}"


def _print(output: Console, line: str) -> None:
    output.print(line, markup=False, highlight=False, soft_wrap=True)


class _LineView:
    """Each stage as a line, once."""

    def __init__(self, output: Console) -> None:
        self._output = output
        self._shown: set[tuple[str, int]] = set()

    def shown(self) -> AbstractContextManager[object]:
        return nullcontext()

    def show(self, progress: Sequence[NodeProgress]) -> None:
        for node in progress:
            for index, stage in enumerate(node.stages):
                if (node.node, index) not in self._shown:
                    self._shown.add((node.node, index))
                    line = f"{stage.seconds:6.1f} s  {node.node}  {stage.stage} {stage.detail}"
                    _print(self._output, line.rstrip())


class _LiveView:
    """All nodes as a table that is drawn over itself."""

    def __init__(self, output: Console, machines: Sequence[Machine]) -> None:
        self._machines = {machine.name: machine for machine in machines}
        self._live = Live(console=output, auto_refresh=False)

    def shown(self) -> AbstractContextManager[object]:
        return self._live

    def show(self, progress: Sequence[NodeProgress]) -> None:
        table = Table("Node", "Stage", "Since power-on", "Way so far")
        for node in progress:
            table.add_row(
                node.node,
                node.stage or "power-on",
                f"{self._seconds(node):.1f} s",
                " ".join(f"{s.stage} {s.seconds:.1f}" for s in node.stages),
                style={UP: "green", FAILED: "red"}.get(node.stage),
            )
        self._live.update(table, refresh=True)

    def _seconds(self, node: NodeProgress) -> float:
        """The clock of a node that has arrived stands still."""
        if node.stage in (UP, FAILED):
            return node.stages[-1].seconds
        return self._machines[node.node].seconds
