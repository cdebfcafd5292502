"""Real images for real machines, each built once for all workers of a test run."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

import pytest

from bootnode.image.build import build_image
from bootnode.image.packages import Packages
from bootnode.image.spec import load_recipe, recipes_folder
from bootnode.image.store import ImageStore

GRUB_PACKAGE = "grub-efi-arm64-signed"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with the failsafe image in it."""
    return _state_with("failsafe", tmp_path_factory)


@pytest.fixture(scope="session")
def built_arm64(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with the failsafe image for arm64 in it."""
    return _state_with("failsafe-arm64", tmp_path_factory)


@pytest.fixture(scope="session")
def grub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Debian's GRUB for arm64."""
    folder = tmp_path_factory.mktemp("grub")
    with (folder / "log").open("wb") as log:
        packages = Packages.of("arm64", folder, log=log)
        packages.unpack(packages.fetch(GRUB_PACKAGE), folder / "unpacked")
    (found,) = (folder / "unpacked").rglob("grubnetaa64.efi.signed")
    (folder / "files").mkdir()
    shutil.copy(found, folder / "files")
    return folder / "files"


@pytest.fixture(scope="session")
def compute(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with the compute image in it."""
    return _state_with("compute", tmp_path_factory)


def _state_with(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    # With several workers each has a folder of its own below the run's.
    shared = base.parent if base.name.startswith("popen-") else base
    state = shared / f"state-{name}"
    state.mkdir(exist_ok=True)
    with (shared / f"state-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        store = ImageStore(state / "images")
        if not store.names():
            build_image(load_recipe(recipes_folder() / name), store, cache=state / "cache")
    return state
