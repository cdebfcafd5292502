"""`bootnode image list`, `show`, `delete`, `prune` and `rollback`, with a daemon and without."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootnode.addresses import MacAddress
from bootnode.boot.journal import FETCH_SILENCE_S, Journal, Stage
from bootnode.image.store import Contents, ImageStore, Provenance, RootFile

Run = Callable[..., Any]
Publish = Callable[..., str]
NOW = 1_700_000_000.0
MACS = {
    "node-000": MacAddress.parse("fc:ab:14:e8:66:01"),
    "node-001": MacAddress.parse("fc:ab:14:e8:66:02"),
    "node-002": MacAddress.parse("fc:ab:14:e8:66:04"),
}
NO_DAEMON = (
    "bootnode: no bootnoded answers on {folder}/state/bootnoded.sock: the next boots are from the "
    "node table, and what nodes boot and run at this moment is not known\n"
)


def boot(journal: Journal, node: str, image: str, *stages: Stage, at: float = NOW) -> None:
    """A node was given this NAME/VERSION, and came so far."""
    for stage in (Stage.SCRIPT, *stages):
        journal.reach(MACS[node], stage, now=at)
    journal.use_image(MACS[node], image)


def rows(out: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line) for line in out.splitlines()]


def versions(run: Run) -> set[str]:
    return {image["version"] for image in json.loads(run("image", "list", "--json").out)}


# list and show


def test_no_images(run: Run, folder: Path) -> None:
    outcome = run("image", "list")
    assert (outcome.status, outcome.out) == (
        0,
        "IMAGE  VERSION    SIZE  IN RAM  BUILT  USED BY\n",
    )
    assert outcome.err == NO_DAEMON.format(folder=folder)
    assert json.loads(run("image", "list", "--json").out) == []


def test_list_in_a_pipe(run: Run, publish: Publish, journal: Journal) -> None:
    old, new = publish("failsafe", b"1"), publish("failsafe")
    boot(journal, "node-000", f"failsafe/{old}", Stage.INIT, Stage.UP)
    boot(journal, "node-001", f"failsafe/{old}", Stage.INIT, Stage.UP)
    boot(journal, "node-002", f"failsafe/{new}", Stage.KERNEL)
    outcome = run("image", "list")
    assert outcome.err == ""
    built = r"\d{4}-\d\d-\d\d \d\d:\d\d UTC"
    facts = rf"[\d.]+ k?M?B +30\.0 MB  {built}"
    for line in (
        rf"failsafe  {old} +{facts}  running node-\[000-001\]",
        rf"failsafe  {new}  current  {facts}  next boot node-000,node-002; booting node-002",
    ):
        assert re.search(f"^{line}$", outcome.out, re.MULTILINE), outcome.out


def test_list_for_programs(run: Run, publish: Publish, journal: Journal) -> None:
    old, new = publish("failsafe", b"1"), publish("failsafe", b"2")
    boot(journal, "node-000", f"failsafe/{old}", Stage.INIT, Stage.UP)
    boot(journal, "node-002", f"failsafe/{new}", Stage.KERNEL)
    images = {image["version"]: image for image in json.loads(run("image", "list", "--json").out)}
    uses = ("current", "next_boot", "booting", "running")
    assert {version: [image[key] for key in uses] for version, image in images.items()} == {
        old: [False, [], [], ["node-000"]],
        new: [True, ["node-000", "node-002"], ["node-002"], []],
    }
    assert images[old]["kernel_release"] == "6.1.0-test"


def test_list_without_a_daemon(run: Run, publish: Publish, folder: Path) -> None:
    publish("failsafe")
    outcome = run("image", "list")
    assert rows(outcome.out)[1][-1] == "next boot node-000,node-002"
    assert outcome.err == NO_DAEMON.format(folder=folder)
    (image,) = json.loads(run("image", "list", "--json").out)
    assert (image["next_boot"], image["booting"], image["running"]) == (
        ["node-000", "node-002"],
        None,
        None,
    )


def test_list_with_a_broken_table(run: Run, publish: Publish, folder: Path) -> None:
    publish("failsafe")
    (folder / "nodes.yaml").write_text("nodes: 7\n")
    outcome = run("image", "list")
    assert outcome.status == 0
    assert rows(outcome.out)[1][-1] == "?"
    assert f"{folder}/nodes.yaml has errors: `bootnode check` shows them" in outcome.err


def test_list_shows_a_damaged_version(run: Run, publish: Publish, folder: Path) -> None:
    version = publish("failsafe", b"1")
    manifest = folder / "state/images/failsafe" / version / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{")
    row = rows(run("image", "list").out)[1]
    assert row[:6] == ["failsafe", version, "current", "damaged", "-", "-"]
    (image,) = json.loads(run("image", "list", "--json").out)
    assert (image["version"], image["current"]) == (version, True)
    assert "run `bootnode image build failsafe`" in image["reason"]


def shown(out: str) -> dict[str, str]:
    return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in out.splitlines())


def test_show(run: Run, publish: Publish, folder: Path, journal: Journal) -> None:
    old, version = publish("failsafe", b"1234"), publish("failsafe", b"12345")
    boot(journal, "node-001", f"failsafe/{version}", Stage.INIT, Stage.UP)
    values = shown(run("image", "show", "failsafe").out)
    assert values["version"] == f"{version} (current)"
    assert values["folder"] == f"{folder}/state/images/failsafe/{version}"
    assert (values["next boot"], values["booting"]) == ("node-000,node-002", "-")
    assert values["running"] == "node-001"
    assert values["kernel_args"] == "-"
    assert values["root"] == "- (the ramdisk is all there is)"
    plain = json.loads(run("image", "show", "failsafe", "--json").out)
    assert (plain["version"], plain["initrds"]) == (version, ["initrd.img"])
    assert (plain["current"], plain["running"]) == (True, ["node-001"])
    values = shown(run("image", "show", "failsafe", old).out)
    assert (values["version"], values["next boot"]) == (old, "-")
    assert re.fullmatch(r"4 B  sha256 [0-9a-f]{64}", values["initrd.img"])
    assert values["busybox-static"] == "1.35"


def test_show_tells_of_the_root_file_system(run: Run, folder: Path) -> None:
    store = ImageStore(folder / "state" / "images")
    for fetch in ("init", "ramdisk"):
        root = RootFile(
            format="erofs",
            fetch=fetch,
            file="root.erofs",
            size_bytes=5,
            sha256="0" * 64,
            ram_bytes=143_000_000,
        )
        contents = Contents(
            kernel="vmlinuz", initrds=(), kernel_release="6.1", ram_bytes=1, root=root
        )
        with store.staging(fetch) as staging:
            (staging / "files").mkdir()
            provenance = Provenance(recipe_sha256="", packages={})
            store.publish(fetch, staging / "files", contents, provenance)
    shown = re.compile(r"^root +(.*)$", re.MULTILINE)
    for name, by in (("init", "init"), ("ramdisk", "the boot loader")):
        found = shown.search(run("image", "show", name).out)
        assert found
        assert found[1] == f"erofs, fetched by {by}, 143.0 MB in RAM"


def test_an_image_that_is_not_there(run: Run) -> None:
    outcome = run("image", "show", "failsafe")
    assert outcome.status == 1
    assert outcome.err == (
        "bootnode: image 'failsafe' is not built: run `bootnode image build failsafe`\n"
    )


# delete


def test_delete(run: Run, publish: Publish) -> None:
    old, new = publish("failsafe", b"1"), publish("failsafe", b"2")
    outcome = run("image", "delete", "failsafe", old)
    assert re.fullmatch(rf"failsafe {old} is deleted, which frees \d+ B\n", outcome.out)
    assert versions(run) == {new}


def test_delete_refuses_what_nodes_get(run: Run, publish: Publish) -> None:
    old, new = publish("failsafe", b"1"), publish("failsafe", b"2")
    outcome = run("image", "delete", "failsafe", new)
    assert outcome.status == 1
    assert outcome.err == (
        f"bootnode: version {new} is what node-000,node-002 get as 'failsafe' now: build or roll "
        "back to another one first\n"
    )
    assert versions(run) == {old, new}


def test_delete_refuses_the_current_one_that_nobody_has(run: Run, publish: Publish) -> None:
    publish("spare", b"1")
    new = publish("spare", b"2")
    outcome = run("image", "delete", "spare", new)
    assert outcome.status == 1
    assert f"version {new} is what nodes get as 'spare' now" in outcome.err


@pytest.mark.parametrize("which", ["all", "last"])
def test_delete_refuses_an_image_that_nodes_have(run: Run, publish: Publish, which: str) -> None:
    version = publish("failsafe", b"1")
    outcome = run("image", "delete", "failsafe", *([version] if which == "last" else []))
    assert outcome.status == 1
    assert outcome.err == (
        "bootnode: 'failsafe' is the image of node-000,node-002: give them another one in the "
        "node table, and reload, before you delete it\n"
    )
    assert versions(run) == {version}


def test_delete_asks_the_table_that_the_daemon_has(
    run: Run, publish: Publish, journal: Journal, folder: Path
) -> None:
    """The edited table gives nobody the image any more, but was not loaded."""
    assert journal.get(MACS["node-000"]) is None
    publish("failsafe", b"1")
    text = (folder / "nodes.yaml").read_text().replace("image: failsafe", "image: compute")
    (folder / "nodes.yaml").write_text(text)
    outcome = run("image", "delete", "failsafe")
    assert outcome.status == 1
    assert "'failsafe' is the image of node-000,node-002: " in outcome.err


def test_delete_refuses_machines_outside_the_table_too(
    run: Run, publish: Publish, folder: Path
) -> None:
    publish("spare", b"1")
    with (folder / "nodes.yaml").open("a") as table:
        table.write("unknown: {image: spare}\n")
    outcome = run("image", "delete", "spare")
    assert outcome.status == 1
    assert "'spare' is the image of unknown-*: " in outcome.err


@pytest.mark.parametrize("which", ["all", "one", "last"])
def test_delete_refuses_what_a_node_boots(
    run: Run, publish: Publish, journal: Journal, which: str
) -> None:
    old = publish("spare", b"1")
    if which != "last":
        publish("spare", b"2")
    boot(journal, "node-001", f"spare/{old}", Stage.KERNEL)
    words = ("image", "delete", "spare", *([] if which == "all" else [old]))
    outcome = run(*words)
    assert outcome.status == 1
    assert outcome.err == (
        f"bootnode: version {old} of 'spare' is being booted by node-001: wait until `bootnode "
        "status` says `up` (one that was switched off meanwhile counts for 60 min)\n"
    )
    for stage in (Stage.INIT, Stage.ROOT, Stage.SWITCH):
        assert run(*words).status == 1
        journal.reach(MACS["node-001"], stage, now=NOW)
    assert run(*words).status == 0


def test_a_boot_that_never_ended_holds_nothing_for_ever(
    run: Run, publish: Publish, journal: Journal
) -> None:
    old, new = publish("failsafe", b"1"), publish("failsafe", b"2")
    boot(journal, "node-001", f"failsafe/{old}", Stage.KERNEL, at=NOW - FETCH_SILENCE_S - 1)
    assert run("image", "delete", "failsafe", old).status == 0
    assert versions(run) == {new}


def test_delete_of_a_whole_image(run: Run, publish: Publish, folder: Path) -> None:
    old, new = publish("spare", b"1"), publish("spare", b"2")
    outcome = run("image", "delete", "spare")
    both = ", ".join(sorted((old, new)))
    assert outcome.out.startswith(f"spare with all its versions ({both}) is deleted, which frees ")
    assert not (folder / "state/images/spare").exists()
    outcome = run("image", "delete", "spare")
    assert (outcome.status, outcome.err) == (
        1,
        "bootnode: image 'spare' is not built: run `bootnode image build spare`\n",
    )


def test_nothing_is_removed_while_its_users_cannot_be_known(
    run: Run, publish: Publish, journal: Journal, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """A daemon that was started before it told who uses what; and a table with errors."""
    assert not list(journal)
    old, new = publish("failsafe", b"1"), publish("failsafe", b"2")
    verbs = (("delete", "failsafe", old), ("delete", "failsafe"), ("prune", "--keep", "1"))
    with monkeypatch.context() as patch:
        patch.setattr("bootnode.web.status.asdict", lambda _value: None)
        for words in verbs:
            outcome = run("image", *words)
            assert outcome.status == 1
            assert "restart it" in outcome.err
        outcome = run("image", "list")
        assert outcome.status == 0
        assert "restart it" in outcome.err
    (folder / "nodes.yaml").write_text("nodes: 7\n")
    for words in verbs:
        outcome = run("image", *words)
        assert outcome.status == 1
        assert "nodes.yaml:1:" in outcome.err
    assert versions(run) == {old, new}


# prune


@pytest.fixture
def five(publish: Publish, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Five versions of failsafe, the oldest first; the newest is current."""
    made = []
    for number in range(5):
        monkeypatch.setattr("time.time", lambda now=1000 + number: now)
        made.append(publish("failsafe", b"%d" % number))
    return made


def test_prune_keeps_the_newest(run: Run, five: list[str], publish: Publish) -> None:
    spare = publish("spare", b"1")
    outcome = run("image", "prune")
    assert outcome.status == 0
    *lines, summary = rows(outcome.out)
    freed = lines[1][-1]
    assert re.fullmatch(r"\d+ B freed", freed)
    assert lines[1:] == [
        ["failsafe", five[0], "removed", freed],
        ["failsafe", five[1], "removed", freed],
        ["failsafe", five[2], "kept", "one of the newest 3"],
        ["failsafe", five[3], "kept", "one of the newest 3"],
        ["failsafe", five[4], "kept", "current"],
        ["spare", spare, "kept", "current"],
    ]
    assert re.fullmatch(r"2 of 6 versions removed, \d+\.?\d* k?B freed", summary[0])
    assert versions(run) == {*five[2:], spare}


def test_prune_spares_what_is_current_and_what_boots(
    run: Run, five: list[str], journal: Journal
) -> None:
    run("image", "rollback", "failsafe", five[1])
    boot(journal, "node-001", f"failsafe/{five[2]}", Stage.INITRD)
    boot(journal, "node-000", f"failsafe/{five[0]}", Stage.INIT, Stage.UP)
    pruned = json.loads(run("image", "prune", "failsafe", "--keep", "1", "--json").out)
    assert {p["version"]: p["kept_because"] for p in pruned} == {
        five[0]: None,
        five[1]: "current",
        five[2]: "booted by node-001",
        five[3]: None,
        five[4]: "one of the newest 1",
    }
    assert [p["freed_bytes"] > 0 for p in pruned] == [True, False, False, True, False]
    assert versions(run) == {five[1], five[2], five[4]}


def test_prune_does_nothing_if_a_name_is_wrong(run: Run, five: list[str]) -> None:
    outcome = run("image", "prune", "failsafe", "failsave", "--keep", "1")
    assert (outcome.status, outcome.err) == (
        1,
        "bootnode: image 'failsave' has no versions: `bootnode image list`\n",
    )
    assert versions(run) == {*five}


@pytest.mark.parametrize("keep", ["0", "-1", "all", ""])
def test_prune_keeps_one_at_least(run: Run, keep: str) -> None:
    outcome = run("image", "prune", f"--keep={keep}")
    assert outcome.status == 2
    assert f"'{keep}' is not a count (want 1 or more)" in outcome.err


# rollback


def test_rollback_says_who_gets_what(run: Run, five: list[str], journal: Journal) -> None:
    assert journal.get(MACS["node-000"]) is None
    outcome = run("image", "rollback", "failsafe")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == (
        f"failsafe {five[3]} (built 1970-01-01 00:16 UTC) is what nodes get now, from their next "
        "boot on\n"
        "nodes that have this image: node-000,node-002\n"
        f"to return: bootnode image rollback failsafe {five[4]}\n"
    )
    images = json.loads(run("image", "list", "--json").out)
    assert [image["version"] for image in images if image["current"]] == [five[3]]
    run("image", "rollback", "failsafe")
    outcome = run("image", "rollback", "failsafe", five[2])
    assert outcome.out == (
        f"failsafe {five[2]} (built 1970-01-01 00:16 UTC) is what nodes get already\n"
    )


def test_rollback_without_a_way_back(run: Run, publish: Publish) -> None:
    version = publish("failsafe", b"1")
    outcome = run("image", "rollback", "failsafe")
    assert outcome.status == 1
    assert outcome.err == (
        "bootnode: no version of 'failsafe' that is still there was current before: name one, "
        f"`bootnode image rollback failsafe VERSION` (there are: {version})\n"
    )
    assert run("image", "rollback", "spare").status == 1
