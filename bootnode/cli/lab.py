"""`bootnode lab`: a switch, this server and qemu nodes on one machine, apart from all else."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import TYPE_CHECKING

from bootnode.cli.common import Commands, add_command, print_table, read_config
from bootnode.config import Config, NetworkSettings
from bootnode.control import fetch_status
from bootnode.errors import LabError
from bootnode.nodes import NodeTable, load_nodes

if TYPE_CHECKING:
    from bootnode.lab import Lab, NodeVm
    from bootnode.lab.demo import NodeProgress
    from bootnode.lab.vm import RunningVm

DEFAULT_FOLDER = Path("/run/bootnode-lab")
FIRMWARES = ("bios", "uefi", "uefi-http", "uefi-arm64", "uefi-arm64-http")
DEMO_TIMEOUT_S = 240.0
MEMORY_MIB = 1024


def add_commands(commands: Commands) -> None:
    """Add the verbs of `lab`."""
    verbs = commands.add_parser(
        "lab", help="boot virtual nodes on this machine, to try things out"
    ).add_subparsers(metavar="VERB", required=True)
    up = add_command(
        verbs,
        "up",
        run_up,
        help="start a switch for each network, and bootnoded on them",
        example="bootnode lab up -c config/bootnoded.yaml",
    )
    _add_network_options(up)
    boot = add_command(
        verbs,
        "boot",
        run_boot,
        help="switch nodes of the table on, as diskless virtual machines",
        example="bootnode lab boot node-000 node-001:uefi",
    )
    boot.add_argument("nodes", metavar="NODE[:FIRMWARE]", nargs="+", help=_NODE_HELP)
    boot.add_argument(
        "--memory", metavar="MIB", type=int, default=MEMORY_MIB, help="default: %(default)s"
    )
    console = add_command(
        verbs,
        "console",
        run_console,
        help="connect to a node's serial console, until Ctrl-]",
        example="bootnode lab console node-000",
    )
    console.add_argument("node", metavar="NODE")
    inside = add_command(
        verbs,
        "exec",
        run_exec,
        help="run a command in the lab's network",
        example="bootnode lab exec curl http://10.77.0.1:8080/healthz",
    )
    inside.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    list_ = add_command(
        verbs, "list", run_list, help="show what runs in the lab", example="bootnode lab list"
    )
    down = add_command(
        verbs,
        "down",
        run_down,
        help="end the lab and everything in it",
        example="bootnode lab down",
    )
    demo = add_command(
        verbs,
        "demo",
        run_demo,
        help="start a lab, watch nodes boot to the end, and take it down",
        example="bootnode lab demo -c config/bootnoded.yaml node-000 node-001:uefi",
    )
    demo.add_argument("nodes", metavar="NODE[:FIRMWARE]", nargs="+", help=_NODE_HELP)
    _add_network_options(demo)
    for parser in (up, boot, console, inside, list_, down, demo):
        parser.add_argument(
            "--dir",
            metavar="DIR",
            type=Path,
            default=DEFAULT_FOLDER,
            help="the lab's folder, for logs, consoles and sockets (default: %(default)s)",
        )


_NODE_HELP = f"a node's name, and its firmware: {', '.join(FIRMWARES)} (default: bios)"


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address",
        metavar="ADDRESS/PREFIX",
        type=IPv4Interface,
        action="append",
        default=[],
        help="this server's address on each network, in order (default: the network's `router`, "
        "or the first address beside its pool, with /24)",
    )
    parser.add_argument(
        "--accel",
        choices=("auto", "kvm", "tcg"),
        default="auto",
        help="hardware acceleration of the nodes (default: kvm where it works)",
    )


def run_up(arguments: argparse.Namespace) -> int:
    """Leave a lab running in the background."""
    config = read_config(arguments)
    lab = _start(arguments, config, detach=True)
    options = f"-c {arguments.config} --dir {arguments.dir}"
    print(f"the lab is up; `bootnode lab boot {options} NODE` switches a node on")
    print(f"logs and consoles: {lab.config.folder}")
    return 0


def _start(arguments: argparse.Namespace, config: Config, *, detach: bool) -> Lab:
    """The namespaces, the switches, and bootnoded in them; nothing of it left if that fails."""
    from bootnode.lab import Lab, LabConfig

    networks = [network for network in config.networks if network.interface is not None]
    addresses = [*arguments.address]
    addresses += [server_address(network) for network in networks[len(addresses) :]]
    taps = tuple(
        (network.name, address) for network, address in zip(networks, addresses, strict=False)
    )
    lab = Lab.up(
        LabConfig(folder=arguments.dir.absolute(), taps=taps, accel=arguments.accel), detach=detach
    )
    try:
        daemon = [sys.executable, "-m", "bootnode.daemon", "-c", str(arguments.config)]
        if arguments.state_dir is not None:
            daemon += ["--state-dir", str(arguments.state_dir)]
        lab.start_daemon(daemon)
    except BaseException:
        lab.down()
        raise
    return lab


def server_address(network: NetworkSettings) -> IPv4Interface:
    """The address to give this server on a network that the configuration describes.

    Raises:
        LabError: the configuration names no address there.
    """
    pool = network.pool
    known: IPv4Address | None = network.router or (pool[0].first if pool else None)
    if known is None:
        raise LabError(
            f"network {network.name} names neither a router nor a pool: "
            "say with --address what this server's address there is, such as 10.77.0.1/24"
        )
    hosts = IPv4Interface(f"{known}/24").network.hosts()
    beside = next((host for host in hosts if not any(host in each for each in pool)), known)
    return IPv4Interface(f"{network.router or beside}/24")


def run_boot(arguments: argparse.Namespace) -> int:
    """Switch nodes on, and say where their consoles are."""
    from bootnode.lab import Lab

    table = load_nodes(read_config(arguments).nodes)
    machines = _machines(arguments.nodes, table, arguments.memory)
    lab = Lab.attach(arguments.dir.absolute())
    for machine in machines:
        lab.boot(machine)
        print(f"{machine.name} is on; its console: {lab.config.console(machine.name)}")
    return 0


def _machines(words: list[str], table: NodeTable, memory_mib: int = MEMORY_MIB) -> list[NodeVm]:
    """`node-000` or `node-001:uefi` to machines with the nodes' MACs."""
    from bootnode.lab import NodeVm

    machines = []
    for word in words:
        name, _, firmware = word.partition(":")
        node = table.by_name(name)
        if node is None:
            raise LabError(f"there is no node '{name}': `bootnode node list` shows those there are")
        if firmware not in ("", *FIRMWARES):
            raise LabError(f"'{firmware}' is no firmware (want {', '.join(FIRMWARES)})")
        machines.append(
            NodeVm(
                name=node.name,
                mac=node.macs[0],
                firmware=firmware or "bios",  # type: ignore[arg-type]  # checked just above
                memory_mib=memory_mib,
            )
        )
    return machines


def run_console(arguments: argparse.Namespace) -> int:
    """Connect this terminal."""
    from bootnode.lab import Lab

    Lab.attach(arguments.dir.absolute()).console(arguments.node)
    return 0


def run_exec(arguments: argparse.Namespace) -> int:
    """Run a command, with its own input, output and exit status."""
    from bootnode.lab import Lab

    words = arguments.command[arguments.command[:1] == ["--"] :] or ["sh"]
    lab = Lab.attach(arguments.dir.absolute())
    return subprocess.run(lab.command(words), check=False).returncode


def run_list(arguments: argparse.Namespace) -> int:
    """Print a line a process."""
    from bootnode.lab import Lab

    processes = Lab.attach(arguments.dir.absolute()).processes()
    print_table(
        ("NAME", "STATE"),
        (
            (p.name, "runs" if (status := p.poll()) is None else f"ended with {status}")
            for p in processes
        ),
    )
    return 0


def run_down(arguments: argparse.Namespace) -> int:
    """End the lab; one that is down already is fine."""
    from bootnode.lab import Lab

    folder = arguments.dir.absolute()
    try:
        lab = Lab.attach(folder)
    except LabError:
        print(f"no lab runs in {folder}")
        return 0
    lab.down()
    print(f"the lab in {folder} is down; its logs and consoles are still there")
    return 0


def run_demo(arguments: argparse.Namespace) -> int:
    """Boot nodes and watch them; exit status 0 when all are up."""
    from bootnode.lab import demo

    config = read_config(arguments)
    table = load_nodes(config.nodes)
    machines = _machines(arguments.nodes, table)
    with _start(arguments, config, detach=False) as lab:
        running = [lab.boot(machine) for machine in machines]
        status = demo.run_demo(
            running, lambda: _progress(running, config), timeout_s=DEMO_TIMEOUT_S
        )
    outcome = "not all came up" if status else f"all {len(machines)} are up"
    print(f"\n{outcome}; the lab is down again, its logs and consoles are in {arguments.dir}")
    return status


def _progress(machines: list[RunningVm], config: Config) -> list[NodeProgress]:
    """The daemon's view of each machine, in seconds since it was switched on."""
    from bootnode.lab.demo import NodeProgress, StageTime

    status = fetch_status(config.socket)
    lines = {line["name"]: line for line in status["nodes"]}
    progress = []
    for machine in machines:
        line = lines[machine.name]
        powered_on = time.time() - machine.seconds
        stages = tuple(
            StageTime(
                stage=stage,
                seconds=line["began"] + seconds - powered_on,
                detail=line["detail"] if stage == line["stage"] else "",
            )
            for stage, seconds in sorted(line["stages"].items(), key=lambda item: item[1])
        )
        progress.append(NodeProgress(node=machine.name, stages=stages))
    return progress
