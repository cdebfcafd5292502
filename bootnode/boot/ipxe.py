"""Render a plan as an iPXE script.

What iPXE's script language demands: the first line is `#!ipxe`; words are split at blanks and
nothing quotes them; a script ends at the first command that fails unless `||` catches it; and a
script that runs off its end leaves the node at a dead prompt. So every fetch is caught, waits and
tries again, and after some tries the node asks the server anew, for the answer may have changed.
"""

from __future__ import annotations

from bootnode.boot.plan import HOLD_S, NODE_FILES, Hold, ImageBoot, LocalBoot, ScriptPlan

FETCH_TRIES = 5
"""Tries at one file before the whole script is asked for again."""
FETCH_WAIT_S = 3
"""Seconds between two tries at a file."""
BOOTIF_ETHERNET = "01"
"""The ARP hardware type that pxelinux's BOOTIF= writes before the address."""


def render(plan: ScriptPlan) -> str:
    """The script as text: ASCII, lines ended by LF."""
    match plan:
        case ImageBoot():
            lines = _image(plan)
        case LocalBoot():
            lines = _local(plan)
        case _:
            lines = _hold(plan)
    return "\n".join(["#!ipxe", *lines]) + "\n"


def kernel_command_line(plan: ImageBoot, *, node_files: str = "yes") -> str:
    """The kernel's arguments: ours for init, then the image's and the node's.

    `node_files` is where init fetches the node's own files, or `yes` if they are a ramdisk.
    """
    ours = [
        f"bootnode.server={plan.site.url}",
        f"bootnode.node={plan.node}",
        f"bootnode.image={plan.image.name}/{plan.image.version}",
        f"BOOTIF={BOOTIF_ETHERNET}-{plan.mac.hyphenated}",
        *_root_arguments(plan),
        *([f"bootnode.node_files={node_files}"] if plan.image.has_node_files else []),
    ]
    return " ".join([*ours, *plan.image.kernel_args, *plan.kernel_args])


def _root_arguments(plan: ImageBoot) -> list[str]:
    """What init has to know about the root file system."""
    root = plan.image.root
    if root is None:
        return []
    arguments = [f"bootnode.root={root.format}", f"bootnode.root_ram={root.ram_bytes}"]
    if root.is_fetched:
        place = [f"bootnode.root_url={_base(plan)}/{root.file}"]
    else:
        place = [f"bootnode.root_file={root.file}"]
    sizes = [f"bootnode.root_sha256={root.sha256}", f"bootnode.root_size={root.size_bytes}"]
    # What the kernel has unpacked is no file any more, to be compared with its sum.
    return [*arguments, *place, *(sizes if root.is_file else [])]


def _ramdisks(plan: ImageBoot) -> list[tuple[str, str]]:
    """Name and URL of each ramdisk, in the order they are unpacked."""
    image = plan.image
    ramdisks = [(name, f"{_base(plan)}/{name}") for name in image.initrds]
    if image.has_node_files:
        url = plan.site.node_files_url(plan.mac, f"{image.name}/{image.version}")
        ramdisks.append((NODE_FILES, url))
    return ramdisks


def _base(plan: ImageBoot) -> str:
    """Where the files of the image are."""
    return f"{plan.site.url}/images/{plan.image.name}/{plan.image.version}"


def _image(plan: ImageBoot) -> list[str]:
    image = plan.image
    base = _base(plan)
    # UEFI kernels before 5.7 find the ramdisk only by name; naming it harms nobody else.
    names = [f"initrd={name}" for name, _ in _ramdisks(plan)]
    arguments = " ".join([*names, kernel_command_line(plan)])
    lines = [
        f"echo bootnode: {plan.node} boots {image.name} {image.version}",
        "set tries:int32 0",
        ":fetch",
        "imgfree",
        f"kernel --name {image.kernel} {base}/{image.kernel} {arguments} || goto again",
    ]
    lines += [f"initrd --name {name} {url} || goto again" for name, url in _ramdisks(plan)]
    return [
        *lines,
        "boot || goto again",
        ":again",
        "inc tries",
        f"iseq ${{tries}} {FETCH_TRIES} && goto anew ||",
        f"echo bootnode: fetch failed, trying again in {FETCH_WAIT_S} s",
        f"sleep {FETCH_WAIT_S}",
        "goto fetch",
        *_anew(plan.site.script_url(plan.mac)),
    ]


def _hold(plan: Hold) -> list[str]:
    # The reason holds names and paths: `printable` keeps a hostile one from becoming a command.
    return [
        f"echo bootnode: {plan.node} waits: {_printable(plan.reason)}",
        *_anew(plan.site.script_url(plan.mac, plan.machine)),
    ]


def _anew(url: str) -> list[str]:
    """Ask the server for a new script, for as long as it takes."""
    return [
        ":anew",
        "imgfree",
        f"echo bootnode: asking again in {HOLD_S} s",
        f"sleep {HOLD_S}",
        f"chain --replace --autofree {url} || goto anew",
        "goto anew",
    ]


def _local(plan: LocalBoot) -> list[str]:
    return [
        f"echo bootnode: {plan.node} boots from its local disk",
        # UEFI: iPXE's exit hands back to the firmware's own boot order.
        "iseq ${platform} efi && exit ||",
        # BIOS: the first disk, described to nobody; if there is none, back to the boot order.
        "sanboot --no-describe --drive 0x80 || exit",
    ]


def _printable(text: str) -> str:
    """Text as iPXE's echo can take it: no expansion, no comment, no command separators."""
    kept = "".join(
        c if c.isascii() and c.isprintable() and c not in "#$\\;&|" else "?" for c in text
    )
    return " ".join(kept.split())
