"""The store when it is killed, fails or is read at any moment; each change to files is a moment.

Python tells an audit hook of each file that is opened for writing, renamed, linked or removed. From
the chosen moment on every change is refused, so that what clears up after an error changes as
little as it does in a process that was killed; or one change alone fails, as on a full disk.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from bootnode.errors import ImageError
from bootnode.image.store import Contents, ImageStore, ImageVersion, Provenance

NAME = "failsafe"
CONTENTS = Contents(
    kernel="vmlinuz", initrds=("initrd.img",), kernel_release="6.1.0-1-test", ram_bytes=4096
)
PROVENANCE = Provenance(recipe_sha256="0" * 64, packages={})
CHANGES = frozenset(
    {"os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink"}
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES_MAX = 200
"""No operation makes as many changes."""


class Killed(BaseException):
    """What a killed process does instead of its next change."""


class _Moments:
    """Counts the changes that this thread makes, and calls `at_change` before each."""

    def __init__(self) -> None:
        self._at_change: Callable[[int], None] | None = None
        self._thread = 0
        self.changes = 0
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        at_change = self._at_change
        if at_change is None or threading.get_ident() != self._thread:
            return
        if event in CHANGES or (event == "open" and int(arguments[2]) & WRITING):
            self.changes += 1
            at_change(self.changes)

    @contextmanager
    def watched(self, at_change: Callable[[int], None]) -> Iterator[None]:
        self.changes, self._thread, self._at_change = 0, threading.get_ident(), at_change
        try:
            yield
        finally:
            self._at_change = None

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        at_change, self._at_change = self._at_change, None
        try:
            yield
        finally:
            self._at_change = at_change


MOMENTS = _Moments()


def publish(store: ImageStore, kernel: str) -> str:
    with store.staging(NAME) as staging:
        staged = staging / "version"
        staged.mkdir()
        (staged / "vmlinuz").write_text(kernel)
        (staged / "initrd.img").write_text("i")
        return store.publish(NAME, staged, CONTENTS, PROVENANCE).version


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A store with three versions, and their names by their kernels; the last is current."""
    folder = tmp_path_factory.mktemp("made") / "images"
    store = ImageStore(folder)
    versions = {kernel: publish(store, kernel) for kernel in "abc"}
    elsewhere = ImageStore(folder.with_name("elsewhere"))
    return folder, versions | {kernel: publish(elsewhere, kernel) for kernel in "de"}


def delete(store: ImageStore, version: str) -> None:
    with store.changing():
        store.delete(NAME, version)


def delete_all(store: ImageStore, _version: str) -> None:
    with store.changing():
        store.delete_all(NAME)


def roll_back(store: ImageStore, _version: str) -> None:
    with store.changing():
        store.roll_back(NAME)


def roll_back_to(store: ImageStore, version: str) -> None:
    with store.changing():
        store.make_current(NAME, version)


def publish_new(store: ImageStore, _version: str) -> None:
    publish(store, "d")


def publish_old(store: ImageStore, _version: str) -> None:
    publish(store, "a")


def mend(store: ImageStore, version: str) -> None:
    """The version was damaged before."""
    with MOMENTS.unwatched():
        kernel = store.folder / NAME / version / "vmlinuz"
        if kernel.read_text() == "a":
            kernel.chmod(0o644)
            kernel.write_text("?")
    publish(store, "a")


OPERATIONS = [
    # what is done to version a; which version may be current then; which may be there besides b, c
    pytest.param(publish_new, "cd", ["a", "ad"], id="publish"),
    pytest.param(publish_old, "ca", ["a"], id="publish-old"),
    pytest.param(mend, "ca", ["", "a"], id="publish-damaged"),
    pytest.param(delete, "c", ["", "a"], id="delete"),
    pytest.param(delete_all, "c", ["a"], id="delete-all"),
    pytest.param(roll_back, "cb", ["a"], id="rollback"),
    pytest.param(roll_back_to, "ca", ["a"], id="rollback-to"),
]
Operation = Callable[[ImageStore, str], None]
BEFORE = {"b": "a", "c": "b", "d": "c", "a": "c"}
"""What each is followed by on the way back, once it is current."""


def check_whole(image: ImageVersion) -> None:
    """Every file of a version is there and has its content."""
    for file in image.manifest.files:
        content = (image.folder / file.name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file.sha256, image


def check_consistent(
    store: ImageStore,
    versions: dict[str, str],
    current: str,
    others: list[str],
    *,
    may_be_gone: bool,
    damaged: str = "",
) -> None:
    """What any reader may see, whenever it looks."""
    if may_be_gone and not store.names():
        assert store.current_name(NAME) is None
        return
    names = {version: kernel for kernel, version in versions.items()}
    there = "".join(sorted(names[version] for version in store.version_names(NAME)))
    assert there in ["".join(sorted("bc" + more)) for more in others]
    now = names[store.current(NAME).version]
    assert now in current
    assert names[store.past(NAME)[0]] == BEFORE[now]
    for version in store.version_names(NAME):
        if version != damaged:
            check_whole(store.load(NAME, version))


def check_goes_on(store: ImageStore) -> None:
    """The next build finds nothing in its way, and leaves nothing that is in somebody else's."""
    version = publish(store, "e")
    assert store.current(NAME).version == version
    assert {entry.name for entry in store.folder.iterdir()} == {".lock", NAME}
    left = {entry.name for entry in (store.folder / NAME).iterdir()}
    assert left == {*store.version_names(NAME), "current", "history"}
    if store.past(NAME):
        roll_back(store, "")
        check_whole(store.current(NAME))


def copy(made: Path, folder: Path) -> ImageStore:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made, folder, symlinks=True)
    return ImageStore(folder)


@pytest.mark.parametrize(("operation", "current", "others"), OPERATIONS)
def test_a_reader_sees_versions_whole_at_every_moment(
    made: tuple[Path, dict[str, str]],
    tmp_path: Path,
    operation: Operation,
    current: str,
    others: list[str],
) -> None:
    folder, versions = made
    store = copy(folder, tmp_path / "images")
    damaged = versions["a"] if operation is mend else ""

    def look(_change: int) -> None:
        with MOMENTS.unwatched():
            check_consistent(
                store,
                versions,
                current,
                others,
                may_be_gone=operation is delete_all,
                damaged=damaged,
            )

    with MOMENTS.watched(look):
        operation(store, versions["a"])
    assert MOMENTS.changes > 2


def killed_at(moment: int) -> Callable[[int], None]:
    def at_change(change: int) -> None:
        if change >= moment:
            raise Killed

    return at_change


def failing_at(moment: int) -> Callable[[int], None]:
    def at_change(change: int) -> None:
        if change == moment:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

    return at_change


@pytest.mark.parametrize("fault", [killed_at, failing_at])
@pytest.mark.parametrize(("operation", "current", "others"), OPERATIONS)
def test_a_fault_at_any_moment_leaves_a_store_that_goes_on(
    made: tuple[Path, dict[str, str]],
    tmp_path: Path,
    operation: Operation,
    current: str,
    others: list[str],
    fault: Callable[[int], Callable[[int], None]],
) -> None:
    folder, versions = made
    damaged = versions["a"] if operation is mend else ""
    for moment in count(1):
        store = copy(folder, tmp_path / "images")
        with MOMENTS.watched(fault(moment)), suppress(Killed, OSError, ImageError):
            operation(store, versions["a"])
        check_consistent(
            store,
            versions,
            current,
            others,
            may_be_gone=operation is delete_all,
            damaged=damaged,
        )
        check_goes_on(store)
        if MOMENTS.changes < moment:
            break
        assert moment < CHANGES_MAX


# Other processes

READER = """\
import hashlib, os, select, sys
from pathlib import Path
from bootnode.errors import ImageError
from bootnode.image.store import ImageStore

store = ImageStore(Path(sys.argv[1]))
store.current("failsafe")  # imports what it needs, which only root may read
os.setgroups([]), os.setgid(65534), os.setuid(65534)
print("ready", flush=True)
seen = set()
while not select.select([sys.stdin], [], [], 0)[0]:
    image = store.current("failsafe")
    seen.add(image.version)
    for file in image.manifest.files:
        try:
            content = (image.folder / file.name).read_bytes()
        except FileNotFoundError:
            # Deleted after it was replaced: then all of it is gone.
            assert not image.folder.exists(), image.folder
            break
        assert hashlib.sha256(content).hexdigest() == file.sha256
print(len(seen))
"""
ROUNDS = 25


@pytest.mark.root
def test_another_user_sees_every_version_whole() -> None:
    folder = Path(tempfile.mkdtemp(prefix="bootnode-store-"))  # tmp_path is closed to others
    folder.chmod(0o755)
    old = os.umask(0o077)
    try:
        store = ImageStore(folder / "images")
        publish(store, "0")
        with subprocess.Popen(
            [sys.executable, "-c", READER, str(store.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as reader:
            assert reader.stdin
            assert reader.stdout
            assert reader.stdout.readline() == b"ready\n"
            for number in range(1, ROUNDS):
                publish(store, f"{number}" * 100_000)
                roll_back(store, "")
                current = store.current_name(NAME)
                for version in store.version_names(NAME):
                    if version != current:
                        delete(store, version)
                publish(store, f"{number} once more")
            seen, _ = reader.communicate(b"stop\n", timeout=30)
        assert reader.returncode == 0
        assert int(seen) > 2
    finally:
        os.umask(old)
        shutil.rmtree(folder)


ON_A_FULL_DISK = """\
import os, subprocess, sys
from pathlib import Path
from bootnode.errors import ImageError
from bootnode.image.store import ImageStore
from tests.unit.image.test_store_faults import delete, publish, roll_back, roll_back_to

place = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", place], check=True)
store = ImageStore(place / "images")
a, b, c = (publish(store, kernel) for kernel in "abc")

try:
    publish(store, "x" * 1_000_000)
except OSError as error:
    print("publish:", error.strerror)
print(store.current_name("failsafe") == c, sorted(os.listdir(store.folder)))

(store.folder / ".lock").write_bytes(b"")  # not even a place to write down who holds it
with (place / "filler").open("wb", buffering=0) as filler:
    try:
        while filler.write(bytes(4096)):
            pass
    except OSError as error:
        print("disk:", error.strerror)

try:
    roll_back_to(store, a)
except ImageError as error:
    print("rollback to a:", error)
print(store.current_name("failsafe") == c)
roll_back(store, "")
print(store.current_name("failsafe") == b)
delete(store, c)
print(sorted(store.version_names("failsafe")) == sorted([a, b]))
(place / "filler").unlink()
print(publish(store, "c") == c == store.current_name("failsafe"), store.past("failsafe") == [b, a])
"""


@pytest.mark.root
def test_a_full_disk(tmp_path: Path) -> None:
    """Room is made by deleting, which therefore needs none; going back needs none either."""
    command = ["unshare", "--mount", sys.executable, "-c", ON_A_FULL_DISK, str(tmp_path)]
    root = Path(__file__).parents[3]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "publish: No space left on device",
        "True ['.lock', 'failsafe']",
        "disk: No space left on device",
        f"rollback to a: images cannot be changed: No space left on device ({tmp_path}/images)",
        "True",
        "True",
        "True",
        "True True",
    ]
