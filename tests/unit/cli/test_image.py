"""`bootnode image build`, as far as the command goes; building is tested where it is done."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Run = Callable[..., Any]


def test_a_step_that_is_none(run: Run) -> None:
    outcome = run("image", "build", "failsafe", "--from", "rootfs")
    assert outcome.status == 1
    assert outcome.err == (
        "bootnode: 'failsafe' has no step 'rootfs' "
        "(want one of packages, kernel, ramdisk, stub, publish)\n"
    )
    assert run("image", "build", "failsafe", "--only", "nothing").err.startswith(
        "bootnode: 'failsafe' has no step 'nothing'"
    )


def test_a_recipe_that_is_not_there(run: Run) -> None:
    outcome = run("image", "build", "nonesuch")
    assert outcome.status == 1
    assert re.fullmatch(
        r"bootnode: there is no recipe 'nonesuch' \(there are: .*failsafe.*\)\n", outcome.err
    )
