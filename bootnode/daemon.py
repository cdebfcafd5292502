"""bootnoded: everything wired together from the configuration; start, reload, stop.

Starting takes every socket and file first and begins to serve only when all are there, so that a
port in use never leaves half a server behind. A reload with errors keeps the old table.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from ipaddress import IPv4Address
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aiohttp import web

from bootnode import __version__, net
from bootnode.addresses import Interface, MacAddress
from bootnode.boot import filenames
from bootnode.boot.client import RASPBERRY_PI_OUIS
from bootnode.boot.journal import Journal, Stage
from bootnode.boot.nodefiles import node_networks
from bootnode.boot.plan import LOADER_NAMES, LOADERS, Policy, Site, UnifiedPath
from bootnode.cli.common import add_config_options
from bootnode.clock import SteadyClock
from bootnode.config import Config, NetworkSettings
from bootnode.dhcp.book import LeaseBook
from bootnode.dhcp.leases import Lease
from bootnode.dhcp.pxe import Architecture
from bootnode.dhcp.server import LeaseWriter
from bootnode.errors import BootnodeError, ConfigError, StartError
from bootnode.files import FileRoots, OpenFile
from bootnode.image.grubserved import GrubFiles
from bootnode.image.served import CurrentImages, UnifiedImages
from bootnode.image.store import ImageStore
from bootnode.networks import Networks
from bootnode.nodekeys import NodeKeys
from bootnode.nodes import Boot, NodeTable, load_site
from bootnode.notify import notify, reloading, watchdog_interval_s
from bootnode.state import LeaseStore
from bootnode.tftp.packet import ReadRequest
from bootnode.tftp.server import Endpoint, Refused, TftpServer, TransferEvent, UsualMissError
from bootnode.tftp.transfer import Completed, Failed, FileSource
from bootnode.web.app import WebApp
from bootnode.web.leases import lease_routes
from bootnode.web.nodefiles import NodeFiles

log = logging.getLogger(__name__)

LOADER_FOLDERS = (Path("/usr/lib/ipxe"),)
"""Where Debian's package `ipxe` puts its loaders."""
LOADER_FILES: Mapping[str, Path] = MappingProxyType(
    {
        "ipxe.efi": Path("/boot/ipxe.efi"),
        **{
            f"{name}{suffix}": Path("/usr/lib/grub", folder, f"{name}{suffix}")
            for name, architecture in (("grubnetx64.efi", "x86_64"), ("grubnetaa64.efi", "arm64"))
            for suffix, folder in (
                (".signed", f"{architecture}-efi-signed"),
                ("", f"{architecture}-efi/monolithic"),
            )
        },
    }
)
"""Those that packages keep elsewhere: iPXE's own driver one, and GRUB's, one for each way."""
SWITCH_S = 0.0005
"""Seconds after which another thread gets its turn; Python's own 5 ms are what an ACK may take."""
STOP_S = 0.7
"""Seconds that downloads under way get when the daemon ends; aiohttp waits twice that long, once
for them to end and once for them to be cancelled, and systemd was promised 2 s for all of it."""
LOOPBACK = IPv4Address("127.0.0.1")


def file_roots(config: Config) -> FileRoots:
    """What TFTP serves: the user's own folder, then the loaders of the package."""
    own = [config.files] if config.files is not None else []
    return FileRoots([*own, *LOADER_FOLDERS], aliases=LOADER_FILES)


def available_loaders(roots: FileRoots) -> frozenset[str]:
    """The boot loaders that are there.

    Raises:
        StartError: there is none at all.
    """
    found = find_loaders(roots)
    if not found:
        raise StartError(
            "there is no boot loader: install the package ipxe (`apt install ipxe`), "
            "or put undionly.kpxe and snponly.efi into the folder that `files` names"
        )
    return found


def find_loaders(roots: FileRoots) -> frozenset[str]:
    """The boot loaders that are there, if any."""
    found = set()
    for name in LOADER_NAMES:
        with suppress(OSError):
            roots.resolve(name)
            found.add(name)
    return frozenset(found)


class Daemon:
    """A whole server: made, opened, served, closed."""

    def __init__(self, config_path: Path, *, state_dir: Path | None = None) -> None:
        """Read the configuration.

        Raises:
            ConfigError: it has problems.
        """
        self._config_path = config_path
        self._state_dir = state_dir
        self.config, table = load_site(config_path, state_dir=state_dir)
        self.journal = Journal()
        self._roots = file_roots(self.config)
        self._images = ImageStore(self.config.images)
        self.policy = Policy(table=table, loaders=frozenset(), images=CurrentImages(self._images))
        self.journal.on_further = self.policy.chains.forget
        self._unified = UnifiedImages(
            policy=self.policy,
            journal=self.journal,
            images=self._images,
            clock=time.time,
            on_delivered=self._on_delivered,
        )
        self._grub = GrubFiles(
            policy=self.policy,
            journal=self.journal,
            images=self._images,
            clock=time.time,
            on_delivered=self._on_delivered,
        )
        self._clock = SteadyClock()
        self._networks = Networks(
            config=self.config, policy=self.policy, journal=self.journal, clock=self._clock
        )
        self._book = LeaseBook(self._networks.subnets, self.policy.name)
        self._stop = asyncio.Event()
        self._reload_lock = asyncio.Lock()

    async def run(self) -> None:
        """Open everything, serve until `stop`, close everything.

        Raises:
            StartError: a port is in use, an interface missing, no loader there.
        """
        async with AsyncExitStack() as stack:
            await self._open(stack)
            _settle()
            notify("READY=1")
            log.info("%d nodes in the table", len(self.policy.table))
            print("bootnoded: ready", file=sys.stderr, flush=True)  # noqa: T201  # the contract
            watchdog = asyncio.create_task(_watchdog())
            try:
                await self._stop.wait()
            finally:
                watchdog.cancel()
                notify("STOPPING=1")

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()

    # Start

    async def _open(self, stack: AsyncExitStack) -> None:
        """Take every socket and file, then begin to serve."""
        self.policy.loaders = available_loaders(self._roots)
        self._open_state(stack)
        networks = [
            (settings, net.find_interface(settings.interface))
            for settings in self.config.networks
            if settings.interface is not None
        ]
        servers = self._networks.open(networks, self._store.take_leases(), self._writer, stack)
        self._networks.reserve()
        tftp_port = self.config.tftp.port
        tftp = TftpServer(
            [
                net.keep_open(stack, net.tftp_socket(interface, tftp_port))
                for _, interface in networks
            ],
            self._open_file,
            self._on_transfer,
        )
        sites = await self._http(networks, tftp, stack)
        # Everything is taken: from here on, nothing can turn out to be in use.
        stack.push_async_callback(self._writer.aclose)
        for server in servers:
            server.start()
            stack.callback(server.close)
        tftp.start()
        stack.push_async_callback(tftp.aclose)
        for site in sites:
            await site.start()
        await self._decide()
        for sentence in _missing_loaders(self.policy.loaders):
            log.warning("%s", sentence)

    async def _decide(self) -> None:
        """Let the networks with `dhcp: auto` find out what they are, unless `stop` comes first."""
        deciding = asyncio.create_task(self._networks.decide())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((deciding, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            is_cut_off = deciding.cancel()
            stopping.cancel()
            await asyncio.wait((deciding, stopping))
        if not is_cut_off:
            deciding.result()

    def _open_state(self, stack: AsyncExitStack) -> None:
        folder = self.config.state_dir
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StartError(
                f"state_dir {folder} cannot be made: {error.strerror}: "
                "create it for the user that runs bootnoded, or name another one"
            ) from None
        self._store = LeaseStore(folder / "state.sqlite")
        stack.callback(self._store.close)
        if self._store.damage is not None:
            log.error("%s", self._store.damage)
        # SQLite waits for the disk: in a thread of its own, so that no packet does.
        self._executor = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="state"))
        self._writer = LeaseWriter(self._save_leases, self._executor)
        self.policy.spent |= self._store.spent_boots()
        self._rearm()

    def _save_leases(self, leases: Sequence[Lease]) -> None:
        self._store.save(leases, clock_offset_s=self._clock.offset_s)

    async def _http(
        self,
        networks: Sequence[tuple[NetworkSettings, Interface]],
        tftp: TftpServer,
        stack: AsyncExitStack,
    ) -> list[web.BaseSite]:
        """The web server on each network, on loopback, and on the Unix socket."""
        http = WebApp(
            policy=self.policy,
            journal=self.journal,
            images=self._images,
            unified=self._unified,
            roots=self._roots,
            files=self.config.files,
            clock=time.time,
            on_delivered=self._on_delivered,
            node_files=self._node_files(networks, stack),
            counters={"tftp": tftp.counters},
            leased_to=self._leased_to,
            networks=self._networks.status,
            more_routes=lease_routes(self._lease_lines, self._end_lease),
        )
        addresses = {*(interface.address.ip for _, interface in networks), LOOPBACK}
        sockets = [
            net.keep_open(stack, net.http_socket(address, self.config.http.port))
            for address in sorted(addresses)
        ]
        sockets.append(net.keep_open(stack, net.unix_socket(self.config.socket)))
        stack.callback(self.config.socket.unlink, missing_ok=True)
        runner = web.AppRunner(
            http.app, access_log=None, logger=http.protocol_log, shutdown_timeout=STOP_S
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        return [web.SockSite(runner, sock, backlog=net.BACKLOG) for sock in sockets]

    def _node_files(
        self, networks: Sequence[tuple[NetworkSettings, Interface]], stack: AsyncExitStack
    ) -> NodeFiles:
        addresses = {interface.name: interface.address for _, interface in networks}
        node_files = NodeFiles(
            policy=self.policy,
            networks=node_networks(self.config, addresses),
            keys=NodeKeys(self.config.node_secret, may_make=True),
        )
        stack.callback(node_files.close)
        return node_files

    # Serve

    def _open_file(self, request: ReadRequest, client: Endpoint, server: IPv4Address) -> FileSource:
        site = Site(address=server, http_port=self.config.http.port)
        unified = UnifiedPath.parse(request.filename)
        if unified is not None:
            return self._unified.open(unified, client.host, site)
        try:
            return self._open_plain_file(request.filename, self.journal.at(client.host))
        except FileNotFoundError:
            made = self._grub.open(request.filename, client.host, site)
            if made is None:
                raise
            return made

    def _open_plain_file(self, name: str, mac: MacAddress | None) -> OpenFile:
        """The file that a client names, wherever a client of its kind may have it."""
        is_pi = mac is not None and mac[:3] in RASPBERRY_PI_OUIS
        node = self.policy.table.by_mac(mac) if mac is not None else None
        places = filenames.places(
            name, node=node.name if node is not None else None, is_raspberry_pi=is_pi
        )
        for place in places:
            with suppress(FileNotFoundError):
                return OpenFile(self._roots.resolve(place))
        miss = f"{name!a} does not exist"
        if filenames.is_usual_miss(name, is_raspberry_pi=is_pi):
            raise UsualMissError(miss)
        raise FileNotFoundError(miss)

    def _on_transfer(self, event: TransferEvent) -> None:
        """Tell the journal what a node did by TFTP."""
        mac = self.journal.at(event.client.host)
        if mac is None:
            return
        now = time.time()
        match event.outcome:
            case Completed() if (unified := UnifiedPath.parse(event.filename)) is not None:
                self._unified.deliver(unified)
            case Completed() if self._grub.deliver(event.filename, mac):
                pass
            case Completed():
                self.journal.reach(mac, Stage.LOADER, now=now, detail=event.filename)
            case Refused(is_usual=True):
                pass
            case Failed(reason=reason) | Refused(reason=reason):
                self.journal.note(mac, f"tftp {event.filename}: {reason}", now=now)

    def _leased_to(self, address: IPv4Address) -> MacAddress | None:
        """Who has an address by its lease: the leases outlive a restart, the journal does not."""
        found = (subnet.leases.lookup_address(address) for subnet in self._networks.subnets)
        active = (lease for lease in found if lease is not None and lease.is_active(self._clock()))
        return next((lease.mac for lease in active), None)

    def _lease_lines(self) -> dict[str, Any]:
        offset_s = self._clock.offset_s
        lines = self._book.lines(now=self._clock(), clock_offset_s=offset_s)
        return {"now": time.time(), "leases": lines}

    async def _end_lease(self, address: IPv4Address) -> bool:
        """End a lease by an administrator's word; returns when that is on disk.

        Raises:
            web.HTTPInsufficientStorage: it could not be written.
        """
        lease = self._book.release(address, now=self._clock())
        if lease is None:
            return False
        log.info("address=%s mac=%s released by command", address, lease.mac)
        stored = asyncio.get_running_loop().create_future()
        self._writer.store(lease, stored.set_result)
        if not await stored:
            raise web.HTTPInsufficientStorage
        return True

    def _on_delivered(self, mac: MacAddress) -> None:
        """A node has all of its image: its `boot: once` is used up."""
        node = self.policy.table.by_mac(mac)
        if node is None or node.boot is not Boot.ONCE or self.policy.is_spent(node):
            return
        self.policy.spent.add((node.name, node.image or ""))
        self._spawn(self._store.spend_boot, node.name, node.image or "")
        log.info("node=%s has had its `boot: once`: from now on it boots locally", node.name)

    def _spawn(self, write: Callable[..., None], *arguments: str) -> None:
        """Write a mark in the thread of the database; a failure is logged, and the mark counts."""

        def report(done: Future[None]) -> None:
            if error := done.exception():
                log.error("%s not stored: %s", " ".join(arguments), error)

        self._executor.submit(write, *arguments).add_done_callback(report)

    # Reload

    async def reload(self) -> None:
        """Read the node table again; with errors in it, the old one stays."""
        async with self._reload_lock:
            notify(reloading())
            try:
                # Parsing 5,000 nodes takes a second: not in the event loop.
                config, table = await asyncio.to_thread(self._read)
            except ConfigError as error:
                self.journal.count("reload.refused")
                for problem in error.problems:
                    log.error("%s", problem)
                log.error("reload: %d problems, the old table stays", len(error.problems))
            else:
                self._replace(config, table)
            notify("READY=1")

    def _read(self) -> tuple[Config, NodeTable]:
        return load_site(self._config_path, state_dir=self._state_dir)

    def _rearm(self) -> None:
        """Forget the marks of nodes that were taken out of `once`: put back in, they boot again."""
        for name, image in [*self.policy.spent]:
            node = self.policy.table.by_name(name)
            if node is None or node.boot is not Boot.ONCE:
                self.policy.spent.discard((name, image))
                self._spawn(self._store.rearm_boot, name)

    def _replace(self, config: Config, table: NodeTable) -> None:
        if config.model_copy(update={"nodes": self.config.nodes}) != self.config:
            log.warning(
                "reload: %s has changed beyond `nodes`: restart bootnoded for that to count",
                self._config_path,
            )
        self.policy.table = table
        self._networks.reserve()
        self._rearm()
        with suppress(StartError):  # keeps the loaders of the start; a missing file is refused
            self.policy.loaders = available_loaders(self._roots)
        _settle()
        log.info("reload: %d nodes in the table", len(table))


def _missing_loaders(loaders: frozenset[str]) -> Iterator[str]:
    """A sentence for each usual kind of machine that no loader is there for."""
    for kind, architecture in (("BIOS", Architecture.X86_BIOS), ("UEFI", Architecture.X64_UEFI)):
        names = LOADERS[architecture]
        if loaders.isdisjoint(names):
            yield (
                f"{kind} machines cannot boot: there is no {' or '.join(names)}: install the "
                "package ipxe, or put one into the folder that `files` names"
            )


def _settle() -> None:
    """Take what is here to stay out of the garbage collector's sight.

    It would look through table and leases for garbage again and again, and nobody is answered for
    the tenth of a second that 10,000 nodes take.
    """
    gc.collect()
    gc.freeze()
    # What comes later, the journal of each node above all, is looked through as a whole only once
    # it has grown beyond all measure; what is young, and so may be garbage, as often as ever.
    gc.set_threshold(1000, 5, 10000)
    # As long may the thread that stores leases have to wait for the interpreter, each time.
    sys.setswitchinterval(SWITCH_S)


async def _watchdog() -> None:
    """Tell systemd that the loop turns, for as long as it does."""
    interval_s = watchdog_interval_s()
    while interval_s is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)


async def _serve(daemon: Daemon) -> None:
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = loop.create_task(daemon.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stop)
    await daemon.run()


def set_up_logging(level: int) -> None:
    """Lines on stderr; the journal of systemd has its own time stamps."""
    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    logging.basicConfig(
        stream=sys.stderr, level=level, format=f"{stamp}%(levelname)s %(name)s %(message)s"
    )


def main() -> None:
    """The command `bootnoded`."""
    parser = argparse.ArgumentParser(
        prog="bootnoded",
        description="The netboot server: DHCP or ProxyDHCP, TFTP and HTTP in one process.",
        epilog="example: bootnoded -c config/bootnoded.yaml",
    )
    add_config_options(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="log every detail")
    parser.add_argument("--version", action="version", version=f"bootnoded {__version__}")
    arguments = parser.parse_args()
    set_up_logging(logging.DEBUG if arguments.verbose else logging.INFO)
    try:
        asyncio.run(_serve_from(arguments.config, arguments.state_dir))
    except ConfigError as error:
        for problem in error.problems:
            log.error("%s", problem)
        sys.exit(1)
    except BootnodeError as error:
        log.error("%s", error)
        sys.exit(1)


async def _serve_from(config: Path, state_dir: Path | None) -> None:
    await _serve(Daemon(config, state_dir=state_dir))


if __name__ == "__main__":
    main()
