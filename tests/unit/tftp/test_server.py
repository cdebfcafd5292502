"""The shell round Transfer: limits, faults that stay inside, what it says about itself."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address
from typing import Any

import pytest

from bootnode.files import BytesSource
from bootnode.tftp import server as module
from bootnode.tftp.packet import Ack, Data, Error, ErrorCode, OptionAck, Packet, ReadRequest, parse
from bootnode.tftp.server import (
    Endpoint,
    Refused,
    Started,
    TftpServer,
    TransferEvent,
    UsualMissError,
    _printable,
)
from bootnode.tftp.transfer import Aborted, Completed, Failed, FileSource

SERVER = IPv4Address("127.0.0.1")


class Source(BytesSource):
    """Content that remembers whether it was given back, and may break in an unexpected way."""

    def __init__(self, content: bytes, *, broken: bool = False) -> None:
        super().__init__(content)
        self.broken = broken
        self.closed = 0

    def read(self, offset: int, length: int) -> bytes:
        if self.broken:
            raise ZeroDivisionError
        return super().read(offset, length)

    def close(self) -> None:
        self.closed += 1


class Bench:
    """A server on loopback whose files are what `content` says, and one client socket."""

    def __init__(self) -> None:
        self.content: Callable[[], Source] = lambda: Source(bytes(1000))
        self.sources: list[Source] = []
        self.events: list[TransferEvent] = []
        listening = udp_socket()
        self.address: tuple[str, int] = listening.getsockname()
        self.server = TftpServer([listening], self.open_file, self.on_event)
        self.clients: list[socket.socket] = []

    def open_file(self, request: ReadRequest, client: Endpoint, server: IPv4Address) -> FileSource:
        source = self.content()
        self.sources.append(source)
        return source

    def on_event(self, event: TransferEvent) -> None:
        self.events.append(event)

    def client(self) -> socket.socket:
        sock = udp_socket()
        sock.setblocking(False)
        self.clients.append(sock)
        return sock

    def ask(self, filename: str = "file", **options: int) -> socket.socket:
        sock = self.client()
        pairs = tuple((name, str(value)) for name, value in options.items())
        request = ReadRequest(filename=filename, mode="octet", options=pairs)
        sock.sendto(request.serialize(), self.address)
        return sock

    async def wait_for(self, *outcomes: type) -> None:
        """Wait until exactly these outcomes were told, in this order."""
        async with asyncio.timeout(10):
            while len(self.events) < len(outcomes):
                await asyncio.sleep(0.005)
        assert [type(event.outcome) for event in self.events] == list(outcomes)


def udp_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((str(SERVER), 0))
    return sock


async def receive(sock: socket.socket) -> tuple[Packet, tuple[str, int]]:
    async with asyncio.timeout(10):
        data, peer = await asyncio.get_running_loop().sock_recvfrom(sock, 65536)
    return parse(data), peer


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    before = len(os.listdir("/proc/self/fd"))
    bench = Bench()
    bench.server.start()
    yield bench
    await bench.server.aclose()
    for sock in bench.clients:
        sock.close()
    assert [source.closed for source in bench.sources] == [1] * len(bench.sources)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_events_follow_a_transfer(bench: Bench) -> None:
    sock = bench.ask("boot\\ipxe.efi", blksize=600)
    _, peer = await receive(sock)
    for block in range(3):
        sock.sendto(Ack(block=block).serialize(), peer)
        if block < 2:
            packet, _ = await receive(sock)
            assert isinstance(packet, Data)
    await bench.wait_for(Started, Completed)
    started, completed = bench.events
    assert started.outcome == Started(size=1000)
    assert (started.bytes_sent, completed.bytes_sent) == (0, 1000)
    client = Endpoint(SERVER, sock.getsockname()[1])
    assert {(event.client, event.server, event.filename) for event in bench.events} == {
        (client, SERVER, "boot\\ipxe.efi")
    }
    assert bench.server.counters == {"started": 1, "completed": 1}
    assert str(completed).startswith(
        f"client={client} server=127.0.0.1 file=boot\\ipxe.efi tftp=completed bytes=1000 seconds="
    )


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (FileNotFoundError("no such"), ErrorCode.NOT_FOUND, "file not found"),
        (PermissionError("not yours"), ErrorCode.ACCESS_VIOLATION, "access violation"),
        (OSError("disk on fire"), ErrorCode.UNDEFINED, "the server has a problem"),
    ],
)
async def test_a_file_that_cannot_be_opened_is_refused(
    bench: Bench,
    caplog: pytest.LogCaptureFixture,
    error: OSError,
    code: ErrorCode,
    message: str,
) -> None:
    def fail() -> Source:
        raise error

    caplog.set_level(logging.INFO)
    bench.content = fail
    packet, peer = await receive(bench.ask())
    assert packet == Error(code=code, message=message)
    assert peer == bench.address
    await bench.wait_for(Refused)
    refused = bench.events[0].outcome
    assert isinstance(refused, Refused)
    assert refused.code == code
    assert str(error) in refused.reason
    assert [str(error) in record.getMessage() for record in caplog.records] == [True]


async def test_a_usual_miss_is_a_detail(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Source:
        raise UsualMissError("no such")

    caplog.set_level(logging.DEBUG)
    bench.content = fail
    packet, _ = await receive(bench.ask())
    assert packet == Error(code=ErrorCode.NOT_FOUND, message="file not found")
    await bench.wait_for(Refused)
    assert bench.events[0].outcome == Refused(
        code=ErrorCode.NOT_FOUND, reason="no such", is_usual=True
    )
    levels = [record.levelno for record in caplog.records if "no such" in record.getMessage()]
    assert levels == [logging.DEBUG]


@pytest.mark.parametrize("limit", ["MAX_TRANSFERS", "MAX_TRANSFERS_PER_CLIENT"])
async def test_over_a_limit_there_is_silence_and_an_event(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(module, limit, 2)
    first = bench.ask()
    _, peer = await receive(first)
    await receive(bench.ask())
    refused = bench.ask()
    await bench.wait_for(Started, Started, Refused)
    outcome = bench.events[2].outcome
    assert isinstance(outcome, Refused)
    assert outcome.code is None
    assert outcome.reason.startswith("2 transfers")
    with pytest.raises(BlockingIOError):
        refused.recv(100)
    # The same request again is no further transfer, and one that ends makes room.
    request = ReadRequest(filename="file", mode="octet").serialize()
    first.sendto(request, bench.address)
    await receive(first)
    first.sendto(Error(code=0, message="stop").serialize(), peer)
    await bench.wait_for(Started, Started, Refused, Aborted, Started, Aborted)
    refused.sendto(request, bench.address)
    await receive(refused)
    assert bench.server.counters["refused"] == 1


async def test_a_request_answered_before_gets_a_new_socket(bench: Bench) -> None:
    request = ReadRequest(filename="file", mode="octet").serialize()
    sock = bench.ask()
    _, first = await receive(sock)
    sock.sendto(Ack(block=1).serialize(), first)
    await receive(sock)
    sock.sendto(request, bench.address)
    packet, second = await receive(sock)
    assert isinstance(packet, Data)
    assert packet.block == 1
    assert second != first
    # The last block of the old one was out: asking for the next file means that it arrived.
    await bench.wait_for(Started, Completed, Started)


async def test_a_bad_mode_ends_at_once(bench: Bench) -> None:
    sock = bench.client()
    sock.sendto(ReadRequest(filename="file", mode="mail").serialize(), bench.address)
    packet, _ = await receive(sock)
    assert isinstance(packet, Error)
    assert packet.code == ErrorCode.ILLEGAL_OPERATION
    await bench.wait_for(Started, Failed)


async def test_the_timer_sends_again(bench: Bench) -> None:
    sock = bench.ask(timeout=1)
    first, _ = await receive(sock)
    assert isinstance(first, OptionAck)
    assert (await receive(sock))[0] == first


async def test_an_answer_moves_the_timer_forward_and_back(bench: Bench) -> None:
    """The back-off ends with an answer: the next repeat is due before the one that was planned."""
    sock = bench.ask()
    _, peer = await receive(sock)
    assert (await receive(sock))[0] == Data(block=1, payload=bytes(512))
    sock.sendto(Ack(block=1).serialize(), peer)
    second, _ = await receive(sock)
    assert (await receive(sock))[0] == second


async def test_a_fault_inside_one_transfer_stays_inside(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    healthy = bench.ask()
    _, peer = await receive(healthy)
    bench.content = lambda: Source(bytes(1000), broken=True)
    broken = bench.ask(blksize=600)
    _, broken_peer = await receive(broken)
    broken.sendto(Ack(block=0).serialize(), broken_peer)
    await bench.wait_for(Started, Started, Failed)
    assert bench.server.counters["errors"] == 1
    assert "transfer failed inside the server" in caplog.text
    healthy.sendto(Ack(block=1).serialize(), peer)
    assert isinstance((await receive(healthy))[0], Data)


async def test_a_fault_before_the_first_packet_leaves_nothing_open(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.content = lambda: Source(b"x", broken=True)
    bench.ask()
    async with asyncio.timeout(10):
        while not bench.server.counters["errors"]:
            await asyncio.sleep(0.005)
    assert "request failed inside the server" in caplog.text
    assert bench.events == []


async def test_a_listener_that_fails_stops_no_transfer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: TransferEvent) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(bench.server, "_on_event", fail)
    assert isinstance((await receive(bench.ask()))[0], Data)
    assert bench.server.counters["errors"] == 1
    assert "the listener failed" in caplog.text


async def test_no_socket_left_is_an_error_for_that_client(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> socket.socket:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(module, "_transfer_socket", fail)
    packet, _ = await receive(bench.ask())
    assert packet == Error(code=0, message="the server has a problem")
    await bench.wait_for(Refused)
    assert "Too many open files" in str(bench.events[0])


class BusySocket(socket.socket):
    """Cannot send at first, like one whose queue is full."""

    sends = 0

    def send(self, *args: Any) -> int:
        self.sends += 1
        if self.sends == 1:
            raise BlockingIOError
        return super().send(*args)


async def test_what_could_not_be_sent_is_sent_by_the_timer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = module._transfer_socket

    def make_busy(arrival: module._Arrival) -> socket.socket:
        return BusySocket(fileno=make(arrival).detach())

    monkeypatch.setattr(module, "_transfer_socket", make_busy)
    assert isinstance((await receive(bench.ask()))[0], Data)
    assert bench.server.counters["wire_errors"] == 1


async def test_a_client_that_closed_its_port_is_given_up(bench: Bench) -> None:
    sock = bench.ask()
    _, peer = await receive(sock)
    sock.sendto(Ack(block=1).serialize(), peer)
    sock.close()
    await bench.wait_for(Started, Completed)


async def test_an_answer_that_cannot_be_sent_is_a_log_line(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    with udp_socket() as closed:
        pass
    arrival = module._Arrival(sock=closed, server=SERVER, client=Endpoint(SERVER, 1), now=0.0)
    arrival.answer(ErrorCode.NOT_FOUND, "file not found")
    assert "cannot send ERROR 1" in caplog.text


async def test_a_listening_socket_that_fails_is_counted(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    class DeafSocket(socket.socket):
        def recvfrom(self, *args: Any) -> Any:
            raise OSError(105, "No buffer space available")

    with DeafSocket(fileno=udp_socket().detach()) as deaf:
        bench.server._on_readable(deaf, asyncio.get_running_loop())
    assert bench.server.counters["errors"] == 1
    assert "cannot receive" in caplog.text


async def test_a_client_that_cannot_be_connected_leaves_no_socket(bench: Bench) -> None:
    nobody = Endpoint(IPv4Address("255.255.255.255"), 1)
    arrival = module._Arrival(sock=bench.client(), server=SERVER, client=nobody, now=0.0)
    with pytest.raises(OSError, match=r"denied|unreachable"):
        module._transfer_socket(arrival)


async def test_malformed_requests_are_counted_and_get_no_answer(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    sock = bench.client()
    for datagram in (b"", b"\0\1", b"\xff" * 4096, Error(code=0, message="x").serialize()):
        sock.sendto(datagram, bench.address)
    async with asyncio.timeout(10):
        while bench.server.counters["malformed"] + bench.server.counters["stray"] < 4:
            await asyncio.sleep(0.005)
    assert bench.server.counters == {"malformed": 3, "stray": 1}
    assert len(caplog.records) == 3
    with pytest.raises(BlockingIOError):
        sock.recv(100)


@pytest.mark.parametrize(
    ("filename", "shown"),
    [
        ("boot/grün.efi", "boot/grün.efi"),
        ("\\Boot\\BCD", "\\Boot\\BCD"),
        ("a\nb\x1b[2J\x7f", "a\\nb\\x1b[2J\\x7f"),
        ("gr\udcfcn", "gr\\udcfcn"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("x" * 255, "x" * 255),
        ("x" * 256, "x" * 255 + "..."),
    ],
)
def test_names_are_made_printable(filename: str, shown: str) -> None:
    assert _printable(filename) == shown
