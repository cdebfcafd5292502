"""HTTP: boot scripts, image files, loaders, the user's own files, stage reports, status.

RFC 9110. Rules that clients force:

- Every body has its exact length, never a content encoding, and no answer is a redirect: iPXE,
  GRUB and old UEFI firmware each fail on one of these.
- A boot script is always a script: when a node cannot be started, it says why on the node's
  screen, waits, and asks again. An error status would leave the node at a dead prompt.
- A MAC in a URL is a claim. It counts for the journal only from the address that the node has.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from aiohttp import web
from aiohttp.http import HttpProcessingError

from bootnode.addresses import MacAddress
from bootnode.boot import ipxe
from bootnode.boot.journal import REPORT_MAX, REPORTED_STAGES, Journal, Stage
from bootnode.boot.nodefiles import Asked
from bootnode.boot.plan import (
    LOADER_NAMES,
    MACHINES,
    NODE_FILES,
    ImageFiles,
    Policy,
    Site,
    UnifiedPath,
    decide_script,
)
from bootnode.errors import ImageError, NodeFilesError
from bootnode.files import FileRoots
from bootnode.image.served import UnifiedImages, image_files
from bootnode.image.store import ImageStore, ImageVersion
from bootnode.nodes import Node
from bootnode.web import status
from bootnode.web.nodefiles import NodeFiles
from bootnode.web.sendfile import JoinedResponse, SteppedFileResponse

log = logging.getLogger(__name__)

REPORT_MAX_BYTES = 2048
"""A report is one line; what a longer one has beyond this is not read."""
REPORT_AGE_MAX_S = 600.0
"""Older reports count as made now: no clock of a node moves our history far."""
REPORT_TIMEOUT_S = 10.0
REASON_MAX = 200
"""Characters of a reason in a status line."""


class WebApp:
    """The routes, and what they need to answer."""

    def __init__(
        self,
        *,
        policy: Policy,
        journal: Journal,
        images: ImageStore,
        unified: UnifiedImages,
        roots: FileRoots,
        files: Path | None,
        clock: Callable[[], float],
        on_delivered: Callable[[MacAddress], None],
        node_files: NodeFiles,
        counters: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
        leased_to: Callable[[IPv4Address], MacAddress | None] = lambda _address: None,
        more_routes: Iterable[web.RouteDef] = (),
        networks: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:
        """`files` is the user's own folder; `on_delivered` is called when a node has its image.

        `leased_to` says who has an address that the journal knows nothing of since it was begun.
        `counters` are those of other servers, by the prefix under which the status shows them.
        `more_routes` are those of other modules. `networks` tells for the status how each network
        is served.
        """
        self._policy = policy
        self._journal = journal
        self._images = images
        self._unified = unified
        self._roots = roots
        self._files = FileRoots([files]) if files is not None else None
        self._clock = clock
        self._on_delivered = on_delivered
        self._node_files = node_files
        self._counters = counters
        self._leased_to = leased_to
        self._networks = networks
        self.protocol_log = ProtocolLog(journal)
        self.app = web.Application(
            client_max_size=REPORT_MAX_BYTES, middlewares=[self._log_and_guard]
        )
        self.app.add_routes(
            [
                web.get("/", self._status_page),
                web.get("/healthz", self._healthz),
                web.get("/api/status", self._status_json),
                web.get("/boot/{mac}.ipxe", self._script),
                web.get(f"/boot/{{mac}}/{{name}}/{{version}}/{NODE_FILES}", self._files_of_node),
                web.get("/boot/{mac}/{version}.efi", self._unified_image),
                web.get("/images/{name}/{version}/{file}", self._image_file),
                web.get("/loaders/{name}", self._loader),
                web.get("/files/{path:.+}", self._user_file),
                web.post("/report/{mac}", self._report),
                *more_routes,
            ]
        )

    @web.middleware
    async def _log_and_guard(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """One line for each request; a fault in one costs that request only."""
        began = time.monotonic()
        outcome = "500"
        try:
            response = await handler(request)
            outcome = str(response.status)
        except web.HTTPException as error:
            outcome = str(error.status)
            return web.Response(status=error.status, text=f"{error.reason}\n")
        except ConnectionError:
            # EDK2 and iPXE end early on purpose; so does a node that is switched off.
            outcome = "aborted"
            raise
        else:
            return response
        finally:
            self._journal.count(f"http.{outcome}")
            level = logging.DEBUG if request.path in ("/healthz", "/api/status") else logging.INFO
            log.log(
                level,
                "client=%s %s %s status=%s seconds=%.3f",
                *(request.remote, request.method, _printable(request.path[:200])),
                *(outcome, time.monotonic() - began),
            )

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "nodes": len(self._policy.table)})

    async def _status_json(self, _: web.Request) -> web.Response:
        told = status.as_json(self._policy.table, self._journal, now=self._clock())
        told["networks"] = self._networks()
        for prefix, counters in self._counters.items():
            told["counters"] |= {f"{prefix}.{name}": count for name, count in counters.items()}
        return web.json_response(told)

    async def _status_page(self, _: web.Request) -> web.Response:
        text = status.page(self._policy.table, self._journal, now=self._clock())
        return web.Response(text=text, content_type="text/html")

    # Boot scripts

    async def _script(self, request: web.Request) -> web.Response:
        mac, machine = _mac(request), request.query.get("machine", "")
        node = self._policy.table.to_boot(mac)
        plan = decide_script(
            node,
            mac,
            _site(request),
            image=await self._image(node, _asked(request)),
            is_spent=self._policy.is_spent(node),
            machine=machine if machine in MACHINES.values() else "",
        )
        if request.method == "GET" and self._is_from(request, mac):
            self._journal.give_script(mac, plan, now=self._clock())
        return web.Response(text=ipxe.render(plan))

    async def _image(self, node: Node | None, asked: Asked | None) -> ImageFiles | str:
        """The current version, or a sentence that says why this node cannot be given one."""
        if node is None or node.image is None:
            return "the node has no image"
        try:
            while True:
                version = self._images.current(node.image)
                problem = await self._node_files.problem(version, node, asked)
                # One that was replaced meanwhile may be deleted: nobody knew of this node.
                if self._images.current_name(node.image) == version.version:
                    return problem or image_files(version)
        except ImageError as error:
            return str(error)

    # Unified kernel images

    async def _unified_image(self, request: web.Request) -> web.StreamResponse:
        path = UnifiedPath.parse(request.path)
        if path is None:
            raise web.HTTPNotFound
        try:
            content = self._unified.open(path, _peer(request), _site(request))
        except FileNotFoundError as error:
            log.warning("client=%s %s: %s", request.remote, path, error)
            raise web.HTTPNotFound from None
        except PermissionError:
            self._refuse(request, path.mac, "unified", "its image")
        response = JoinedResponse(content, content_type="application/efi")
        await response.send(request)
        if _is_delivered(request, response):
            self._unified.deliver(path)
        return response

    # Files

    async def _image_file(self, request: web.Request) -> web.StreamResponse:
        match = request.match_info
        version = self._version(request)
        files = {entry.name for entry in version.manifest.files} - {version.manifest.node_files}
        if match["file"] not in files:
            raise web.HTTPNotFound
        detail = f"{version.name}/{version.version}"
        mac = self._mac_of(request)
        if mac is not None:
            self._journal.fetch(mac, detail, now=self._clock())
        response = await _send(request, version.folder / match["file"])
        if mac is not None and _is_delivered(request, response):
            now = self._clock()
            self._journal.fetch(mac, detail, now=now)
            if match["file"] == version.kernel:
                self._journal.reach(mac, Stage.KERNEL, now=now, detail=detail)
            elif match["file"] in version.initrds[-1:] and version.manifest.node_files is None:
                self._has_all(mac, version)
        return response

    async def _files_of_node(self, request: web.Request) -> web.StreamResponse:
        """The ramdisk with the node's own files, the last thing that its loader fetches."""
        mac, version = _mac(request), self._version(request)
        node = self._policy.table.to_boot(mac)
        if node is None or version.manifest.node_files is None:
            raise web.HTTPNotFound
        if not self._is_from(request, mac):
            self._refuse(request, mac, "nodefiles", "its files")
        now = self._clock()
        self._journal.fetch(mac, f"{version.name}/{version.version}", now=now)
        try:
            body = await self._node_files.archive(version, node, _asked(request), mtime=int(now))
        except (ImageError, NodeFilesError) as error:
            # The table has changed since the script, and the next script will say why; or there
            # was no script, and the status line is all that wget of busybox shows of an answer.
            self._journal.note(mac, f"files not made: {error}", now=now)
            log.error("mac=%s node=%s files not made: %s", mac, node.name, error)
            reason = _printable(str(error)).encode("ascii", "replace").decode()
            return web.Response(status=409, reason=reason[:REASON_MAX])
        response = web.Response(body=body)
        await response.prepare(request)
        await response.write_eof()
        if _is_delivered(request, response):
            self._has_all(mac, version)
        return response

    def _version(self, request: web.Request) -> ImageVersion:
        try:
            return self._images.load(request.match_info["name"], request.match_info["version"])
        except ImageError:
            raise web.HTTPNotFound from None

    def _has_all(self, mac: MacAddress, version: ImageVersion) -> None:
        """A node has the last ramdisk: its loader has no more to fetch."""
        detail = f"{version.name}/{version.version}"
        self._journal.reach(mac, Stage.INITRD, now=self._clock(), detail=detail)
        self._on_delivered(mac)

    async def _loader(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in LOADER_NAMES:
            raise web.HTTPNotFound
        response = await _send(request, _resolve(self._roots, name))
        mac = self._mac_of(request)
        if mac is not None and _is_delivered(request, response):
            self._journal.reach(mac, Stage.LOADER, now=self._clock(), detail=name)
        return response

    async def _user_file(self, request: web.Request) -> web.StreamResponse:
        if self._files is None:
            raise web.HTTPNotFound
        return await _send(request, _resolve(self._files, request.match_info["path"]))

    # Reports

    async def _report(self, request: web.Request) -> web.Response:
        """`STAGE NODE detail`, just as init prints it on the console."""
        mac = _mac(request)
        if not self._is_from(request, mac):
            self._refuse(request, mac, "report", "report")
        body = await _read_body(request)
        stage_name, _, rest = body.decode("utf-8", "replace").strip().partition(" ")
        try:
            stage = Stage(stage_name)
        except ValueError:
            stage = None
        if stage not in REPORTED_STAGES or stage is None:
            self._journal.count("report.malformed")
            log.warning("client=%s mac=%s malformed report: %a", request.remote, mac, body[:80])
            return web.Response(status=400, text="want: STAGE NODE detail\n")
        detail = _printable(rest.partition(" ")[2])[:REPORT_MAX]
        # A node cannot report before it has an address: it says how long ago it got there.
        reached = self._clock() - _age_s(request)
        self._journal.reach(mac, stage, now=reached, detail=detail)
        log.info("mac=%s node=%s stage=%s %s", mac, self._policy.name(mac), stage.value, detail)
        if stage is Stage.INIT:
            # The image got there, though the last of it may have come from elsewhere.
            self._on_delivered(mac)
        return web.Response(text="ok\n")

    # Who is asking

    def _refuse(self, request: web.Request, mac: MacAddress, counter: str, what: str) -> NoReturn:
        self._journal.count(f"{counter}.refused")
        log.warning("client=%s mac=%s %s refused: not its address", request.remote, mac, what)
        raise web.HTTPForbidden

    def _mac_of(self, request: web.Request) -> MacAddress | None:
        """The node that has the client's address."""
        address = _peer(request)
        if address is None:
            return None
        mac = self._journal.at(address) or self._leased_to(address)
        if mac is not None and self._address_of(mac) is None:
            self._journal.locate(mac, address, now=self._clock())
        return mac if mac is not None and self._address_of(mac) == address else None

    def _address_of(self, mac: MacAddress) -> IPv4Address | None:
        record = self._journal.get(mac)
        return record.address if record is not None else None

    def _is_from(self, request: web.Request, mac: MacAddress) -> bool:
        """Whether the client is this node, as far as its address can tell."""
        return self._journal.is_from(mac, _peer(request), now=self._clock())


class ProtocolLog(logging.LoggerAdapter[logging.Logger]):
    """What aiohttp logs below our handlers: one line, and no traceback, for what is not HTTP."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(log)
        self._journal = journal

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log a fault; `exc_info` is the exception, and for requests `args` is the client."""
        match kwargs.get("exc_info"):
            case HttpProcessingError(message=reason):
                self._journal.count("http.malformed")
                words = _printable(" ".join(reason.split()))[:120]
                super().log(logging.WARNING, "client=%s malformed request: %s", *args, words)
            case ConnectionError():
                pass  # the client has gone, which was counted and logged as `aborted`
            case _:
                super().log(level, msg, *args, **kwargs)


async def _read_body(request: web.Request) -> bytes:
    """The body, as far as a report goes; its parts may come one by one."""
    body = b""
    try:
        async with asyncio.timeout(REPORT_TIMEOUT_S):
            async for part in request.content.iter_any():
                body += part
                if len(body) >= REPORT_MAX_BYTES:
                    break
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    return body[:REPORT_MAX_BYTES]


def _peer(request: web.Request) -> IPv4Address | None:
    """The client's address; None on the Unix socket."""
    try:
        return IPv4Address(request.remote or "")
    except ValueError:
        return None


def _mac(request: web.Request) -> MacAddress:
    try:
        return MacAddress.parse(request.match_info["mac"])
    except ValueError:
        raise web.HTTPNotFound from None


def _age_s(request: web.Request) -> float:
    """Seconds since a node reached what it reports; 0 when it does not say, or talks nonsense."""
    try:
        age_s = float(request.headers.get("Bootnode-Age", "0"))
    except ValueError:
        return 0.0
    return age_s if 0.0 <= age_s <= REPORT_AGE_MAX_S else 0.0


def _site(request: web.Request) -> Site:
    """This server by the address that the client asked."""
    name = request.transport.get_extra_info("sockname") if request.transport is not None else None
    if isinstance(name, tuple):
        return Site(address=IPv4Address(name[0]), http_port=name[1])
    return Site(address=IPv4Address("127.0.0.1"), http_port=80)


def _asked(request: web.Request) -> Asked | None:
    client = _peer(request)
    return Asked(client=client, server=_site(request).address) if client is not None else None


def _resolve(roots: FileRoots, name: str) -> Path:
    try:
        return roots.resolve(name)
    except FileNotFoundError:
        raise web.HTTPNotFound from None
    except PermissionError as error:
        log.warning("file=%a refused: %s", name[:200], error)
        raise web.HTTPForbidden from None


async def _send(request: web.Request, path: Path) -> SteppedFileResponse:
    """Send a file; has returned when its last byte was handed to the kernel."""
    response = SteppedFileResponse(path)
    await response.prepare(request)
    return response


def _is_delivered(request: web.Request, response: web.StreamResponse) -> bool:
    """Whether the client now has the file to its end: all of it, or what it resumed."""
    if request.method != "GET" or response.status not in (200, 206):
        return False
    content_range = response.headers.get("Content-Range", "")
    if not content_range:
        return True
    span, _, size = content_range.removeprefix("bytes ").partition("/")
    return span.rpartition("-")[2] == str(int(size) - 1)


def _printable(text: str) -> str:
    """A node's words made safe for logs and terminals."""
    return "".join(c if c.isprintable() else "?" for c in text)
