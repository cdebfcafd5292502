"""Files in steps: whole, broken off where they must be, and the loop gets its turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from bootnode.web import sendfile
from bootnode.web.sendfile import SteppedFileResponse

STEP = 1000
SIZE = 10 * STEP + 7
CONTENT = bytes(number * 7 % 251 for number in range(SIZE))


class Server:
    """Sends one file, by the runner that the daemon uses, and keeps what came of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.base = ""
        self.port = 0
        self.outcomes: asyncio.Queue[SteppedFileResponse | Exception] = asyncio.Queue()
        self.drops_client_first = False

    async def send(self, request: web.Request) -> web.StreamResponse:
        response = SteppedFileResponse(self.path)
        if self.drops_client_first:
            assert request.transport is not None
            request.transport.abort()
            while request.transport is not None:
                await asyncio.sleep(0)
        try:
            await response.prepare(request)
        except Exception as error:
            self.outcomes.put_nowait(error)
            raise
        self.outcomes.put_nowait(response)
        return response

    async def outcome(self) -> SteppedFileResponse | Exception:
        return await asyncio.wait_for(self.outcomes.get(), 10)


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Server]:
    server = Server(path)
    app = web.Application()
    app.add_routes([web.get("/", server.send)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.port = runner.addresses[0][1]
    server.base = f"http://127.0.0.1:{server.port}/"
    try:
        yield server
    finally:
        await runner.cleanup()


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sendfile, "STEP_BYTES", STEP)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinuz"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, CONTENT),
        ({"Range": "bytes=500-4499"}, CONTENT[500:4500]),
        ({"Range": "bytes=-1"}, CONTENT[-1:]),
        ({"Range": f"bytes={STEP}-{2 * STEP - 1}"}, CONTENT[STEP : 2 * STEP]),
    ],
    ids=["whole", "middle", "last byte", "one step"],
)
async def test_several_steps_make_the_whole(
    file: Path, headers: dict[str, str], body: bytes
) -> None:
    async with serving(file) as server, ClientSession() as session:
        for _ in range(2):  # the connection stays usable
            async with session.get(server.base, headers=headers) as response:
                assert await response.read() == body
            outcome = await server.outcome()
            assert isinstance(outcome, SteppedFileResponse)
            assert outcome.bytes_sent == len(body)


async def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    async with (
        serving(tmp_path / "empty") as server,
        ClientSession() as session,
        session.get(server.base) as response,
    ):
        assert (response.status, await response.read()) == (200, b"")
        assert response.headers["Content-Length"] == "0"


async def test_an_error_has_no_body(file: Path) -> None:
    headers = {"Range": f"bytes={SIZE}-"}
    async with (
        serving(file) as server,
        ClientSession() as session,
        session.get(server.base, headers=headers) as response,
    ):
        assert (response.status, await response.read()) == (416, b"")
        assert response.headers["Content-Length"] == "0"


async def test_the_loop_gets_its_turn_after_each_step(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket takes all at once, and still everybody else is served in between."""
    monkeypatch.setattr(sendfile, "STEP_BYTES", STEP)
    loop = asyncio.get_running_loop()
    turns: list[int] = []
    turn = 0

    def count_turn() -> None:
        nonlocal turn
        turn += 1
        loop.call_soon(count_turn)

    original = loop.sendfile

    async def noted(*arguments: object, **options: object) -> int:
        turns.append(turn)
        return await original(*arguments, **options)  # type: ignore[arg-type]  # passed on as is

    monkeypatch.setattr(loop, "sendfile", noted)
    count_turn()
    async with (
        serving(file) as server,
        ClientSession() as session,
        session.get(server.base) as response,
    ):
        assert await response.read() == CONTENT
    assert len(turns) == 11
    assert all(later > earlier for earlier, later in pairwise(turns))


async def test_a_file_that_shrinks_breaks_the_connection(tmp_path: Path) -> None:
    """Or the client would take the next response for the rest of this one."""
    path = tmp_path / "big"
    size = 256 << 20  # more than any socket buffer holds
    with path.open("wb") as file:
        file.truncate(size)
    async with serving(path) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert f"Content-Length: {size}\r\n".encode() in head
        with path.open("r+b") as file:
            file.truncate(1)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(size)
        outcome = await server.outcome()
        assert isinstance(outcome, ConnectionResetError)
        assert str(outcome) == f"{path} shrank while it was sent"
        writer.close()


async def test_a_client_that_has_gone_already(file: Path) -> None:
    async with serving(file) as server:
        server.drops_client_first = True
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert isinstance(await server.outcome(), ConnectionResetError)
        writer.close()


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("snponly.efi", "application/efi"),
        ("SNPONLY.EFI", "application/efi"),
        ("a.iso", "application/vnd.efi-iso"),
        ("initrd.img", "application/vnd.efi-img"),
        ("a.ipxe", "text/plain"),
        ("a.txt", "text/plain"),
        ("a.json", "application/json"),
        ("root.tar.gz", "application/octet-stream"),
        ("vmlinuz", "application/octet-stream"),
        ("index.html", "application/octet-stream"),
    ],
)
def test_content_type(name: str, content_type: str) -> None:
    """Without a charset: UEFI HTTP Boot compares the whole."""
    assert SteppedFileResponse(Path(name)).headers["Content-Type"] == content_type
