"""`make install` and `make uninstall`, on a copy-on-write view of this machine.

Everything happens in a mount namespace whose root is an overlay: the machine itself is not changed,
and nothing is left when the namespace ends.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 500

# $1: an empty folder. What follows runs in the overlay, in the copy of the checkout.
OVERLAY = """
set -eu
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
for each in proc sys dev; do mount --rbind "/$each" "$1/root/$each"; done
cp -r "$2" "$1/root/src"
exec chroot "$1/root" sh -euc 'cd /src; . ./steps'
"""

STEPS = """
make --silent install
echo == installed
ls /opt/bootnode/bin/bootnoded /opt/bootnode/share/bootnode/images/failsafe/image.yaml \
    /etc/bootnode/bootnoded.yaml /etc/bootnode/nodes.yaml
grep -o '^bootnode:' /etc/passwd
stat -c '%U %a' /var/lib/bootnode
cd /
bootnode --version
bootnoded --version
bootnode check 2>&1 || echo "check: $?"
echo == unit
unit=/usr/local/lib/systemd/system/bootnoded.service
systemd-analyze verify $unit 2>&1 | grep -i bootnoded || true
systemd-analyze security --offline=true $unit | tail -n 1
echo == again
echo '# mine' >> /etc/bootnode/nodes.yaml
make --silent -C /opt/bootnode/src install
tail -n 1 /etc/bootnode/nodes.yaml
echo == uninstalled
make --silent -C /src uninstall
ls -d /opt/bootnode /usr/local/bin/bootnode $unit 2>&1 || true
tail -n 1 /etc/bootnode/nodes.yaml
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What git would clone, and the steps to go through in it."""
    copy = tmp_path / "src"
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    (copy / "steps").write_text(STEPS)
    return copy


def test_install_puts_everything_in_place_and_uninstall_takes_it_away(
    checkout: Path, tmp_path: Path
) -> None:
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    command = ["unshare", "--mount", "sh", "-c", OVERLAY, "sh", str(overlay), str(checkout)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    _, installed, unit, again, uninstalled = done.stdout.split("\n== ")
    assert "/opt/bootnode/share/bootnode/images/failsafe/image.yaml" in installed
    assert "\nbootnode:\nbootnode 755\n" in installed
    assert "\nbootnode 0.1.0\nbootnoded 0.1.0\n" in installed
    # The image is not built yet: the one thing that is wrong, and said with its place.
    assert "nodes.yaml:6:10: defaults.image: image 'failsafe' is not built" in installed
    assert "check: 1" in installed
    assert "Overall exposure level for bootnoded.service: " in unit
    assert "OK" in unit.splitlines()[-1]
    assert len(unit.splitlines()) == 2, unit  # verify had nothing to say
    assert again.splitlines()[-1] == "# mine"
    assert uninstalled.count("No such file or directory") == 3
    assert uninstalled.splitlines()[-1] == "# mine"
    assert not (overlay / "root").exists()
