"""Leases by HTTP, on the Unix socket alone: who may open it may look at leases and end them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from ipaddress import IPv4Address
from typing import Any

from aiohttp import web


def lease_routes(
    lines: Callable[[], dict[str, Any]], release: Callable[[IPv4Address], Awaitable[bool]]
) -> Iterable[web.RouteDef]:
    """`lines` gives what is shown; `release` ends a lease, and says whether there was one."""

    async def show(request: web.Request) -> web.Response:
        _want_socket(request)
        return web.json_response(lines())

    async def end(request: web.Request) -> web.Response:
        _want_socket(request)
        try:
            address = IPv4Address(request.match_info["address"])
        except ValueError:
            raise web.HTTPNotFound from None
        if not await release(address):
            raise web.HTTPNotFound
        return web.json_response({"released": str(address)})

    return [web.get("/api/leases", show), web.post("/api/leases/{address}/release", end)]


def _want_socket(request: web.Request) -> None:
    """Refuse what came by TCP, which changes nothing here."""
    if request.remote:
        raise web.HTTPForbidden
