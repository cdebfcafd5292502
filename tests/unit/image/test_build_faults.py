"""Builds that are interrupted or killed, find the disk full or no network: what is left of them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bootnode.errors import ImageError
from tests.unit.image.test_build_system import Workshop

pytestmark = pytest.mark.root

PROJECT = Path(__file__).parents[3]
DEADLINE_S = 40
BUILD = """\
import sys
from pathlib import Path
from bootnode.errors import ImageError
from bootnode.image.build import build_image
from bootnode.image.spec import load_recipe
from bootnode.image.store import ImageStore

recipe, state, begin = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
try:
    store = ImageStore(state / "images")
    build_image(load_recipe(recipe), store, cache=state / "cache", begin=begin)
except ImageError as error:
    sys.exit(f"failed: {error}")
"""


@pytest.fixture
def workshop(mmdebstrap: Path, tmp_path: Path) -> Workshop:
    assert mmdebstrap
    return Workshop(tmp_path)


def leftovers(state: Path) -> list[str]:
    """What no build that has ended may leave."""
    places = (*state.glob("cache/.*"), *state.glob("cache/*/.*"), *state.glob("images/.[!l]*"))
    return [str(path.relative_to(state)) for path in places]


def running(word: str) -> list[str]:
    """The processes with this word on their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        if word.encode() in words:
            found.append(entry.parent.name)
    return found


def wait_until(is_running: bool, word: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while bool(running(word)) is not is_running:
        assert time.monotonic() < end, f"{word}: {running(word)}"
        os.sched_yield()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(
    ("step", "tool"),
    [
        ("rootfs", "mmdebstrap"),
        ("customise", ""),
        ("archive", "mksquashfs"),
        ("kernel", "depmod"),
    ],
)
def test_an_ended_build_is_no_obstacle(
    workshop: Workshop, tmp_path: Path, step: str, tool: str, how: signal.Signals
) -> None:
    """While it stands in a step, another one says who builds; ended, it leaves nothing."""
    image = workshop.build()
    # sleep adds its arguments up; the second one is how we find it.
    mark = f"0.{tmp_path.stat().st_ino}"
    stalls = tmp_path / "bin" / tool if tool else workshop.recipe / "customise"
    before = stalls.read_text() if stalls.exists() else None
    # Without a namespace only the program itself is ended; what it fills or empties ends with it.
    second = "" if tool in ("mksquashfs", "depmod") else f"sleep 1000 {mark} &\n"
    mess = '>"${TMPDIR:-/tmp}/mess"\n' if tool == "mmdebstrap" else ""
    stalls.write_text(f"#!/bin/sh\n{mess}{second}exec sleep 1000 {mark}\n")
    stalls.chmod(0o755)
    state = workshop.cache.parent
    words = [sys.executable, "-c", BUILD, str(workshop.recipe), str(state), step]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(True, mark)
            with pytest.raises(ImageError, match=rf"another build .*\(process {process.pid}: "):
                workshop.build()
            process.send_signal(how)
            process.wait(DEADLINE_S)
            wait_until(False, mark)
        finally:
            process.kill()
            for pid in running(mark):
                os.kill(int(pid), signal.SIGKILL)
    assert str(state) not in Path("/proc/self/mountinfo").read_text()
    assert workshop.store.current("tiny") == image
    if how == signal.SIGINT:
        assert leftovers(state) == []
    stalls.unlink()
    if before is not None:
        stalls.write_text(before)
        stalls.chmod(0o755)
    assert workshop.build() == image
    assert leftovers(state) == []


ON_A_SMALL_DISK = """\
import os, subprocess, sys
from pathlib import Path
from bootnode.errors import ImageError
from bootnode.image.build import build_image
from bootnode.image.spec import load_recipe
from bootnode.image.store import ImageStore
from tests.unit.image.test_build_faults import leftovers

recipe, state = Path(sys.argv[1]), Path(sys.argv[2])
state.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", state], check=True)
store = ImageStore(state / "images")
build = lambda begin: build_image(
    load_recipe(recipe), store, cache=state / "cache", begin=begin
)
first = build(None)
(recipe / "overlay/blob").write_bytes(os.urandom(3 << 20))
for free in range(1 << 20, 16 << 20, 1 << 19):
    space = os.statvfs(state)
    used = (space.f_blocks - space.f_bfree) * space.f_frsize
    subprocess.run(["mount", "-o", f"remount,size={used + free}", state], check=True)
    try:
        build("rootfs")
    except ImageError as error:
        print(" ".join(str(error).split()))
    else:
        break
    assert store.current("tiny") == first
    assert leftovers(state) == []
assert store.current("tiny") != first
"""


@pytest.mark.parametrize(
    ("root", "packer"), [("squashfs", "mksquashfs"), ("tar.zst", "tar"), ("cpio", "zstd")]
)
def test_a_full_disk(workshop: Workshop, tmp_path: Path, root: str, packer: str) -> None:
    """The disk gets larger until the build succeeds; before, each step meets its end."""
    workshop.change("format: squashfs", f"format: {root}")
    words = [sys.executable, "-c", ON_A_SMALL_DISK, str(workshop.recipe), str(tmp_path / "small")]
    done = subprocess.run(
        ["unshare", "--mount", *words],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    seen = done.stdout.splitlines()
    place = re.escape(str(tmp_path / "small"))
    for known in (
        r"no space left on device while installing bookworm",
        rf"building 'tiny' failed: no space left in {place}: make room there, .*",
        rf"`{packer} .*No space left on device.*",
    ):
        found = [message for message in seen if re.fullmatch(known, message)]
        assert found, (known, seen)
        seen = [message for message in seen if message not in found]
    assert seen == []


def test_no_network(tmp_path: Path) -> None:
    """The real mmdebstrap, in a network of nothing."""
    if not shutil.which("mmdebstrap"):
        pytest.skip("needs mmdebstrap")
    recipe = tmp_path / "tiny"
    recipe.mkdir()
    (recipe / "image.yaml").write_text(
        "description: x\ndistribution: debian\nrelease: bookworm\n"
        "mirror: http://192.0.2.1/debian\n"
        "kernel: {package: linux-image-test, modules: [virtio_net]}\n"
    )
    state = tmp_path / "state"
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", BUILD, str(recipe), str(state), "rootfs"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert re.fullmatch(
        r"failed: cannot fetch http://192\.0\.2\.1/debian.*: .*unreachable.* "
        r"\(check this machine's network, or set `mirror` in the recipe\)\n",
        done.stderr,
    )
    assert leftovers(state) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state", "tiny"]
