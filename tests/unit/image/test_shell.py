"""A shell in a root file system: what changes is kept, and built in; nothing else stays."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootnode.cli import main
from bootnode.errors import ImageError
from bootnode.image.build import build_image, open_root
from bootnode.image.changes import Changes
from bootnode.image.shell import Task, Visit, open_shell, who
from bootnode.image.spec import load_recipe
from bootnode.image.steps import Progress
from bootnode.image.store import ImageStore, ImageVersion

RECIPE = """\
description: a test
distribution: debian
release: bookworm
overlay: overlay
customise: customise
kernel: {package: linux-image-test, modules: [virtio_net]}
"""
DEADLINE_S = 40


class Workshop:
    """A recipe and a state folder."""

    def __init__(self, folder: Path) -> None:
        self.recipe = folder / "images" / "tiny"
        (self.recipe / "overlay/etc").mkdir(parents=True)
        for name in ("motd", "issue"):
            (self.recipe / "overlay/etc" / name).write_text("hello\n")
        (self.recipe / "image.yaml").write_text(RECIPE)
        (self.recipe / "customise").write_text("#!/bin/sh\necho made >/customised\n")
        (self.recipe.parent / "init").mkdir()
        (self.recipe.parent / "init/init").write_text("#!/bin/sh\n")
        self.state = folder / "state"
        self.store = ImageStore(self.state / "images")
        self.changes = Changes(self.state / "changes")
        self.done: list[str] = []

    @property
    def root(self) -> Path:
        """The customised root file system."""
        return self.state / "cache/tiny/customise/output/root"

    def build(self) -> ImageVersion:
        """Build; `done` are the steps that were not skipped."""
        reports: list[Progress] = []
        image = build_image(
            load_recipe(self.recipe),
            self.store,
            cache=self.state / "cache",
            changes=self.changes.folder,
            report=reports.append,
        )
        self.done = [p.step for p in reports if p.seconds is not None and not p.is_skipped]
        return image

    def visit(self, script: str, *, keep: bool = True) -> Visit:
        """Run a script inside."""
        return self.run(Task(script=script.encode()), keep=keep)

    def run(self, task: Task, *, keep: bool = True) -> Visit:
        """Run a task inside."""
        recipe, cache = load_recipe(self.recipe), self.state / "cache"
        with open_root(recipe, self.store, cache=cache, changes=self.changes.folder) as opened:
            return open_shell("tiny", opened, task, self.changes if keep else None)

    def assert_clean(self) -> None:
        """Nothing is mounted, and nothing lies about."""
        assert str(self.state) not in Path("/proc/self/mountinfo").read_text()
        assert not list((self.state / "cache/tiny").glob(".*"))


@pytest.fixture
def workshop(mmdebstrap: Path, tmp_path: Path) -> Workshop:
    assert mmdebstrap
    return Workshop(tmp_path)


@pytest.mark.root
def test_what_changes_is_kept_and_built_in(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "somebody")
    before = workshop.build()
    assert before.manifest.changes == ()
    script = "cat /customised\necho mine >/etc/motd\nrm /etc/issue\nmkdir /srv; echo x >/srv/new\n"
    visit = workshop.visit(script)
    assert visit.difference.letters() == [
        ("D", "etc/issue"),
        ("M", "etc/motd"),
        ("A", "srv"),
        ("A", "srv/new"),
    ]
    assert visit.kept is not None
    assert (visit.kept.by, visit.kept.commands) == ("somebody", tuple(script.splitlines()))
    assert (workshop.root / "etc/motd").read_text() == "hello\n"
    assert workshop.store.current("tiny") == before
    image = workshop.build()
    assert workshop.done == ["customise", "archive", "kernel", "ramdisk", "publish"]
    assert (workshop.root / "etc/motd").read_text() == "mine\n"
    assert (workshop.root / "srv/new").read_text() == "x\n"
    assert not (workshop.root / "etc/issue").exists()
    (entry,) = image.manifest.changes
    assert (entry.number, entry.by, entry.sha256) == (1, "somebody", visit.kept.sha256)
    assert (workshop.build(), workshop.done) == (image, ["publish"])
    # The next shell begins where this one ended.
    second = workshop.visit("cat /etc/motd >/srv/seen; rm /srv/new")
    assert second.difference.letters() == [("D", "srv/new"), ("A", "srv/seen")]
    workshop.build()
    assert (workshop.root / "srv/seen").read_text() == "mine\n"
    for change in workshop.changes.of("tiny"):
        workshop.changes.drop(change)
    assert workshop.build().version == before.version
    workshop.assert_clean()


@pytest.mark.root
def test_nothing_is_kept_that_was_not_to_be(workshop: Workshop) -> None:
    assert workshop.visit("echo x >/etc/motd", keep=False).kept is None
    assert workshop.visit(":").kept is None
    with pytest.raises(ImageError, match=r"^`the script` failed with exit status 1: nothing is k"):
        workshop.visit("echo x >/etc/motd\nfalse\necho never >/etc/motd\n")
    with pytest.raises(ImageError, match=r"^`sh -c 'exit 3'` failed with exit status 3: nothing"):
        workshop.run(Task(command=("sh", "-c", "exit 3")))
    with pytest.raises(ImageError, match=r"^`nonesuch` failed with exit status 127"):
        workshop.run(Task(command=("nonesuch",)))
    assert workshop.changes.of("tiny") == []
    workshop.assert_clean()


@pytest.mark.root
def test_a_command_reads_our_input(workshop: Workshop, capfd: pytest.CaptureFixture[str]) -> None:
    visit = workshop.run(Task(command=("sh", "-c", "id -u; echo 'a b' >/c")))
    assert capfd.readouterr().out == "0\n"
    assert visit.kept is not None
    assert visit.kept.commands == ("sh -c 'id -u; echo '\"'\"'a b'\"'\"' >/c'",)


@pytest.mark.root
def test_what_is_inside(workshop: Workshop, capfd: pytest.CaptureFixture[str]) -> None:
    script = """\
busybox hostname
cat /etc/resolv.conf
for path in proc/self/status sys/kernel dev/null dev/shm dev/fd; do [ -e /$path ]; done
echo x >/run/x; echo x >/tmp/x; echo x >/dev/shm/x; echo x >/dev/null
echo broken >/etc/resolv.conf
read line || echo "no input"
/usr/sbin/policy-rc.d || echo "status $?"
"""
    (workshop.recipe / "overlay/usr/sbin").mkdir(parents=True)
    (workshop.recipe / "overlay/usr/sbin/tool").touch()
    resolver = Path("/etc/resolv.conf").read_text()
    assert len(workshop.visit(script).difference) == 0
    assert capfd.readouterr().out == f"tiny\n{resolver}no input\nstatus 101\n"
    assert Path("/etc/resolv.conf").read_text() == resolver
    assert not (workshop.root / "etc/resolv.conf").exists()
    assert not (workshop.root / "usr/sbin/policy-rc.d").exists()


@pytest.mark.root
def test_kernels_are_where_they_belong(workshop: Workshop) -> None:
    first = workshop.build()
    text = "[ -e /boot/vmlinuz-6.1.0-1-test ]; rm /boot/vmlinuz-6.1.0-1-test"
    assert workshop.visit(text).difference.letters() == [("D", "boot/vmlinuz-6.1.0-1-test")]
    with pytest.raises(ImageError, match="holds no kernel in /boot"):
        workshop.build()
    assert workshop.store.current("tiny") == first


@pytest.mark.root
def test_a_change_that_does_not_fit_names_its_remedy(workshop: Workshop) -> None:
    workshop.visit("mkdir /srv; echo x >/srv/x")
    assert workshop.visit("echo y >/srv/x").kept
    (first, second) = workshop.changes.of("tiny")
    workshop.changes.drop(first)
    (workshop.recipe / "overlay/srv").symlink_to("/etc")
    with pytest.raises(
        ImageError, match=r"^change 2 of 'tiny': /srv/x cannot be changed: /srv is no folder now"
    ):
        workshop.build()
    workshop.changes.drop(second)
    workshop.build()


@pytest.mark.root
def test_too_big_is_no_reason_to_stay_outside(workshop: Workshop) -> None:
    with (workshop.recipe / "image.yaml").open("a") as recipe:
        recipe.write("limits: {tree: 1MiB}\n")
    (workshop.recipe / "overlay/blob").write_bytes(bytes(2 << 20))
    with pytest.raises(ImageError, match=r"over limits\.tree"):
        workshop.build()
    assert workshop.visit("rm /blob").kept


@pytest.mark.root
def test_a_ramdisk_alone_has_no_root(workshop: Workshop) -> None:
    recipe = "description: x\nkernel: {package: linux-image-test, modules: [virtio_net]}\n"
    (workshop.recipe / "image.yaml").write_text(recipe)
    with pytest.raises(ImageError, match="'tiny' is a ramdisk alone: it has no root file system"):
        workshop.visit(":")


@pytest.mark.root
def test_a_file_system_that_carries_no_overlay_is_named(workshop: Workshop) -> None:
    """The upper folder of an overlay cannot be on an overlay."""
    inside = workshop.state.parent / "inside"
    for name in ("lower", "upper", "work"):
        (inside / name).mkdir(parents=True)
    workshop.state.mkdir()
    options = f"lowerdir={inside}/lower,upperdir={inside}/upper,workdir={inside}/work"
    mount = f'mount -t overlay -o {options} overlay {workshop.state}; exec "$@"'
    words = [
        sys.executable,
        "-c",
        PROGRAM,
        str(workshop.recipe),
        str(workshop.state),
        "script",
        ":",
    ]
    ended = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", mount, "sh", *words],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert f"cannot be mounted (see above): {workshop.state}/cache/tiny has to be" in ended.stderr


PROGRAM = """\
import sys
from pathlib import Path
from bootnode.image.build import open_root
from bootnode.image.changes import Changes
from bootnode.image.shell import Task, open_shell
from bootnode.image.spec import load_recipe
from bootnode.image.store import ImageStore
state, changes = Path(sys.argv[2]), Path(sys.argv[2]) / "changes"
task = Task(script=sys.argv[4].encode()) if sys.argv[3] == "script" else Task()
recipe, store = load_recipe(Path(sys.argv[1])), ImageStore(state / "images")
with open_root(recipe, store, cache=state / "cache", changes=changes) as opened:
    open_shell("tiny", opened, task, Changes(changes))
"""


@pytest.fixture
def other(workshop: Workshop) -> Iterator[subprocess.Popen[bytes]]:
    """Somebody else in a shell, who wrote something and stays."""
    script = "echo x >/etc/motd; echo $$ >/run/bootnode/started; sleep 1000 & sleep 1000"
    words = [str(workshop.recipe), str(workshop.state), "script", script]
    with subprocess.Popen([sys.executable, "-c", PROGRAM, *words]) as process:
        while not list((workshop.state / "cache/tiny").glob(".step-*/session/started")):
            assert process.poll() is None
            os.sched_yield()
        yield process
        process.kill()


@pytest.mark.root
def test_one_at_a_time(workshop: Workshop, other: subprocess.Popen[bytes]) -> None:
    for act in (workshop.build, lambda: workshop.visit(":")):
        with pytest.raises(
            ImageError, match=rf"another build runs in .* \(process {other.pid}: -c .*\): wait"
        ):
            act()


@pytest.mark.root
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_ended_shell_leaves_nothing(
    workshop: Workshop, other: subprocess.Popen[bytes], how: signal.Signals
) -> None:
    (folder,) = (workshop.state / "cache/tiny").glob(".step-*")
    other.send_signal(how)
    other.wait(DEADLINE_S)
    end = time.monotonic() + DEADLINE_S
    while inside(folder) and time.monotonic() < end:
        os.sched_yield()
    assert inside(folder) == []
    assert workshop.changes.of("tiny") == []
    workshop.build()
    assert (workshop.root / "etc/motd").read_text() == "hello\n"
    workshop.assert_clean()


def inside(folder: Path) -> list[str]:
    """The processes that have something mounted below `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            if str(folder) in entry.read_text():
                found.append(entry.parent.name)
        except OSError:
            continue  # it has ended
    return found


@pytest.mark.root
def test_a_person_at_a_terminal(workshop: Workshop) -> None:
    """Prompt, job control, a command interrupted by Ctrl-C; kept though the last one failed."""
    words = [sys.executable, "-c", PROGRAM, str(workshop.recipe), str(workshop.state), "shell", ""]
    terminal, theirs = pty.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "vt100"},
    ) as process:
        os.close(theirs)
        try:
            _talk(_Talk(terminal))
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()
            os.close(terminal)
    (kept,) = workshop.changes.of("tiny")
    assert kept.difference.letters() == [("M", "etc/motd")]


def _talk(talk: _Talk) -> None:
    talk.expect("(tiny) / # ")
    talk.type("echo $TERM; [ -t 0 ] && echo a-termi''nal; sleep 1000 &\n")
    talk.expect("vt100\r\na-terminal\r\n")
    talk.type("echo one >/etc/motd; busybox jobs; cd /etc; kill %1\n")
    talk.expect("(tiny) /etc # ")
    talk.type("sh -c 'echo wai\"\"ting; exec sleep 1001'\n")
    talk.expect("waiting\r\n")
    talk.type("\x03")
    talk.expect("(tiny) /etc # ")
    talk.type("echo sta''tus $?; false; exit\n")
    talk.expect("status 130")


class _Talk:
    """What is said at a terminal."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._said = ""

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def expect(self, text: str) -> None:
        """Wait for `text`, and forget what was said up to it."""
        end = time.monotonic() + DEADLINE_S
        while text not in self._said:
            ready, _, _ = select.select([self._terminal], [], [], end - time.monotonic())
            assert ready, f"no '{text}' in {self._said!r}"
            try:
                self._said += os.read(self._terminal, 1 << 12).decode()
            except OSError:
                pytest.fail(f"ended without '{text}': {self._said!r}")
        self._said = self._said.partition(text)[2]


@pytest.mark.root
def test_the_command(
    workshop: Workshop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "bootnoded.yaml"
    config.write_text("state_dir: state\nnetworks: [{interface: tap0, dhcp: full}]\n")
    (tmp_path / "script").write_text("echo said; echo x >/new")

    def bootnode(*words: str) -> int:
        with (tmp_path / "script").open() as script, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", script)
            with pytest.raises(SystemExit) as exited:
                main(["image", *words])
        assert isinstance(exited.value.code, int)
        return exited.value.code

    assert bootnode("shell", "tiny", "-c", str(config), "--", "cat", "/customised") == 0
    out, err = capfd.readouterr()
    assert out == "made\n"
    assert err.endswith("nothing changed\n")
    assert bootnode("shell", "tiny", "--discard", "-c", str(config)) == 0
    assert bootnode("shell", "tiny", "-c", str(config)) == 0
    out, err = capfd.readouterr()
    assert out == "said\nsaid\n"
    assert "A /new\nnothing is kept\n" in err
    assert "A /new\nkept as change 1: `bootnode image build tiny` puts it in" in err
    assert bootnode("build", "tiny", "-c", str(config)) == 0
    assert (workshop.root / "new").read_text() == "x\n"
    (tmp_path / "nodes.yaml").write_text("nodes: {}\n")
    assert bootnode("show", "tiny", "-c", str(config)) == 0
    assert re.search(rf"^change 1 +2.* UTC by {who()}$", capfd.readouterr().out, re.MULTILINE)
    assert bootnode("shell", "tiny", "-c", str(config), "--", "cat", "/nonesuch") == 1
    assert "`cat /nonesuch` failed with exit status 1: nothing is kept\n" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("sudo_user", "uid", "name"), [("me", 0, "me"), (None, 0, "root"), (None, 3_999_999, "3999999")]
)
def test_who(monkeypatch: pytest.MonkeyPatch, sudo_user: str | None, uid: int, name: str) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    if sudo_user is not None:
        monkeypatch.setenv("SUDO_USER", sudo_user)
    monkeypatch.setattr(os, "getuid", lambda: uid)
    assert who() == name
