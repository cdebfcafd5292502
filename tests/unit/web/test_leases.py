"""Leases are shown and ended on the Unix socket alone; the rest is tested with the command."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from bootnode.web.leases import lease_routes


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/api/leases"), ("POST", "/api/leases/10.77.0.131/release")]
)
async def test_tcp_is_refused(method: str, path: str) -> None:
    async def release(_address: IPv4Address) -> bool:
        raise AssertionError

    app = web.Application()
    app.add_routes(lease_routes(dict, release))
    async with TestClient(TestServer(app)) as client:
        response = await client.request(method, path)
        assert response.status == 403
