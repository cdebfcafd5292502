"""Render a plan for GRUB: what its `/grub/grub.cfg` runs.

GRUB reads one `grub.cfg` for all nodes (LOOP): it asks again and again for the file of the node's
own, which starts Linux, or says on the screen why it cannot and comes back. A loop, since a
configuration that loads another one costs GRUB some of its stack each time.

What GRUB's script language demands: between single quotes everything is itself, and nothing can
be a single quote; a command that fails is said and the next one runs; a configuration that ends
leaves the node at a prompt.

Limits: `linux` puts a backslash before each quote and backslash in its arguments. The double quotes
that hold blanks together are taken away here and put back by GRUB; an argument with one of the
others cannot be passed on, which the node says instead of booting.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from bootnode.addresses import MacAddress
from bootnode.boot.ipxe import kernel_command_line
from bootnode.boot.plan import HOLD_S, ImageBoot, LocalBoot, ScriptPlan

CONFIG = "grub/grub.cfg"
"""What GRUB asks for by TFTP: Debian's signed ones look in /grub, wherever they came from."""
LOOP = f"""\
# Of bootnode; a grub/grub.cfg in the folder that `files` names takes its place.
while true; do
  source "/boot/$net_default_mac.grub"
  echo "bootnode: asking again in {HOLD_S} s"
  sleep {HOLD_S}
done
"""
_SCRIPT_PATH = re.compile(r"boot/((?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2})\.grub")
_IMAGE_PATH = re.compile(r"images/([^/]+)/([0-9a-f]+)/([^/]+)")


def script_mac(name: str) -> MacAddress | None:
    """Whose own file this is that a client asks for; None if it is something else."""
    match = _SCRIPT_PATH.fullmatch(name.lstrip("/").lower())
    return MacAddress.parse(match[1]) if match else None


def image_file(name: str) -> tuple[str, str, str] | None:
    """Image, version and file that a client asks for; None if it is something else."""
    match = _IMAGE_PATH.fullmatch(name.lstrip("/"))
    return (match[1], match[2], match[3]) if match else None


def render(plan: ScriptPlan) -> str:
    """The node's own file as text: ASCII, lines ended by LF."""
    match plan:
        case ImageBoot():
            lines = _image(plan)
        case LocalBoot():
            lines = _local(plan)
        case _:
            lines = _hold(plan.node, plan.reason)
    return "\n".join(lines) + "\n"


def _image(plan: ImageBoot) -> list[str]:
    image = plan.image
    files_url = plan.site.node_files_url(plan.mac, f"{image.name}/{image.version}")
    # Rendering them may take its time, in which TFTP must not stand still: init fetches them.
    words = list(_words(kernel_command_line(plan, node_files=files_url)))
    lost = [word for word in words if "'" in word or "\\" in word]
    if lost:
        reason = f"GRUB cannot pass on the kernel argument {lost[0]}: use `loader: ipxe` or `uki`"
        return _hold(plan.node, reason)
    base = f"/images/{image.name}/{image.version}"
    ramdisks = " ".join(_quoted(f"{base}/{name}") for name in image.initrds)
    arguments = " ".join(_quoted(word) for word in words)
    return [
        f"echo {_quoted(f'bootnode: {plan.node} boots {image.name} {image.version}')}",
        f"if linux {_quoted(f'{base}/{image.kernel}')} {arguments}; then",
        f"  if initrd {ramdisks}; then",
        "    boot",
        "  fi",
        "fi",
        "echo 'bootnode: fetch failed'",
    ]


def _local(plan: LocalBoot) -> list[str]:
    return [
        f"echo {_quoted(f'bootnode: {plan.node} boots from its local disk')}",
        "set loader=/efi/boot/bootx64.efi",
        'if [ "$grub_cpu" = arm64 ]; then set loader=/efi/boot/bootaa64.efi; fi',
        'if search --no-floppy --file --set=disk "$loader"; then',
        '  if chainloader "($disk)$loader"; then',
        "    boot",
        "  fi",
        "fi",
        # Firmware takes `exit` for a boot that went well, and shows its menu. Started anew it is
        # told no boot file, and goes on to its next device.
        "reboot",
    ]


def _hold(node: str, reason: str) -> list[str]:
    return [f"echo {_quoted(f'bootnode: {node} waits: {reason}')}"]


def _words(line: str) -> Iterator[str]:
    """The arguments as the kernel reads them: a double quote holds blanks together."""
    for match in re.finditer(r'(?:[^\s"]|"[^"]*(?:"|$))+', line):
        yield match[0].replace('"', "")


def _quoted(text: str) -> str:
    """Text as one word that GRUB changes nothing in; a reason may hold whatever a person wrote."""
    kept = "".join(c if c.isascii() and c.isprintable() else "?" for c in text)
    return "'" + kept.replace("'", "'\\''") + "'"
