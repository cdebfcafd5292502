"""The shell that runs in the ramdisk, as far as it can be looked at without booting it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

INIT = Path(__file__).parents[3] / "images" / "init"
SCRIPTS = sorted([INIT / "init", INIT / "etc/profile", *INIT.glob("lib/bootnode/*.sh")])


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck")
def test_shellcheck_has_nothing_to_say() -> None:
    # SC1091: what is sourced has the path that it has on the node.
    command = ["shellcheck", "--shell=dash", "--exclude=SC1091", *map(str, SCRIPTS)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout == ""
    assert result.returncode == 0


def test_every_script_that_is_named_is_there() -> None:
    named = {
        name
        for script in SCRIPTS
        for name in re.findall(r"/lib/bootnode/([a-z-]+\.sh)", script.read_text())
    }
    assert named == {path.name for path in INIT.glob("lib/bootnode/*.sh")}


@pytest.mark.parametrize("script", ["init", "lib/bootnode/dhcp-event.sh"])
def test_what_the_kernel_and_udhcpc_start_is_executable(script: str) -> None:
    assert (INIT / script).stat().st_mode & 0o111 == 0o111
    assert (INIT / script).read_text().startswith("#!/bin/busybox sh\n")
