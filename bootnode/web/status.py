"""Where each node is: one plain structure, and a plain page made of it."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from bootnode.addresses import MacAddress
from bootnode.boot.journal import Journal, Record, Stage
from bootnode.boot.usage import image_usage
from bootnode.nodes import NodeTable

NEVER_SEEN = "-"
NOTES_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """One line of the status."""

    name: str
    """The node's name; for a MAC outside the table, the MAC."""
    mac: str
    known: bool
    """Whether the node table has it."""
    address: str
    stage: str
    """The last stage reached; `-` before the first boot."""
    detail: str
    image: str
    began: float
    """Unix time at which the last boot began; 0 before the first."""
    last_seen: float
    """Unix time; 0 when never."""
    stages: dict[str, float]
    """Seconds from the beginning of the last boot to each stage."""
    notes: tuple[str, ...]
    """The latest noteworthy events, the oldest first."""


def node_statuses(table: NodeTable, journal: Journal) -> list[NodeStatus]:
    """Every node of the table in its order, then every other MAC that was heard."""
    lines = [_known(node.name, node.macs, journal) for node in table]
    return lines + list(_strangers(table, journal))


def _known(name: str, macs: tuple[MacAddress, ...], journal: Journal) -> NodeStatus:
    """A node with several cards shows the one heard last."""
    records = [(record, mac) for mac in macs if (record := journal.get(mac)) is not None]
    if not records:
        return _line(name, macs[0], Record(), known=True)
    record, mac = max(records, key=lambda pair: pair[0].last_seen)
    return _line(name, mac, record, known=True)


def _strangers(table: NodeTable, journal: Journal) -> Iterator[NodeStatus]:
    for mac, record in journal:
        if table.by_mac(mac) is None:
            yield _line(str(mac), mac, record, known=False)


def _line(name: str, mac: MacAddress, record: Record, *, known: bool) -> NodeStatus:
    boot = record.boot
    began = boot.began if boot is not None else 0.0
    reached = boot.stages if boot is not None else {}
    return NodeStatus(
        name=name,
        mac=str(mac),
        known=known,
        address=str(record.address or ""),
        stage=boot.stage.value if boot is not None else NEVER_SEEN,
        detail=boot.detail if boot is not None else "",
        image=boot.image if boot is not None else "",
        began=began,
        last_seen=record.last_seen,
        stages={stage.value: round(at - began, 3) for stage, at in reached.items()},
        notes=tuple(note.text for note in list(record.notes)[-NOTES_SHOWN:]),
    )


def as_json(table: NodeTable, journal: Journal, *, now: float) -> dict[str, Any]:
    """The whole status, as /api/status gives it."""
    return {
        "now": now,
        "nodes": [asdict(line) for line in node_statuses(table, journal)],
        "images": asdict(image_usage(table, journal, now=now)),
        "counters": dict(sorted(journal.counters.items())),
    }


def page(table: NodeTable, journal: Journal, *, now: float) -> str:
    """The status as an HTML page that renews itself."""
    rows = "\n".join(_row(line, now) for line in node_statuses(table, journal))
    when = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return _PAGE.format(rows=rows, when=when)


def _row(line: NodeStatus, now: float) -> str:
    seen = f"{max(0, round(now - line.last_seen))} s ago" if line.last_seen else "never"
    cells = (line.name, line.mac, line.address, line.stage, line.image, seen, line.detail)
    kind = {Stage.UP.value: "up", Stage.FAILED.value: "failed"}.get(line.stage, "")
    return f'<tr class="{kind}">' + "".join(f"<td>{html.escape(c)}</td>" for c in cells) + "</tr>"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="3">
<title>bootnode</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; margin: 2rem; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .3rem .9rem; text-align: left; border-bottom: 1px solid #8884; }}
td:nth-child(2), td:nth-child(3) {{ font-family: ui-monospace, monospace; }}
.up td:nth-child(4) {{ color: #2a8a3e; font-weight: bold; }}
.failed td:nth-child(4) {{ color: #d0342c; font-weight: bold; }}
</style>
</head>
<body>
<h1>Nodes</h1>
<div><table>
<thead><tr><th scope="col">Node</th><th scope="col">MAC</th><th scope="col">Address</th>
<th scope="col">Stage</th><th scope="col">Image</th><th scope="col">Last seen</th>
<th scope="col">Detail</th></tr></thead>
<tbody>
{rows}
</tbody>
</table></div>
<p>As of {when}. <a href="/api/status">The same as JSON</a>.</p>
</body>
</html>
"""
