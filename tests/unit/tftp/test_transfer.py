"""Transfers as scripts of datagrams and time, and over a simulated bad wire."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bootnode.errors import PacketError
from bootnode.tftp.packet import Ack, Data, Error, ErrorCode, OptionAck, Packet, ReadRequest, parse
from bootnode.tftp.transfer import (
    FIRST_RETRIES,
    IDLE_LIMIT_S,
    LAST_RETRIES,
    MAX_TIMEOUT_OPTION_S,
    Aborted,
    Completed,
    Failed,
    Transfer,
)

CAPTURES = Path(__file__).parents[2] / "captures" / "tftp"


class Content:
    """A file in memory that a test may cut short or break."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)
        self.fault: OSError | None = None

    def read(self, offset: int, length: int) -> bytes:
        if self.fault:
            raise self.fault
        return self.content[offset : offset + length]

    def close(self) -> None:
        """The one who opened it closes it, so no transfer may come here."""
        raise AssertionError


def request(mode: str = "octet", /, **options: int | str) -> ReadRequest:
    pairs = tuple((name, str(value)) for name, value in options.items())
    return ReadRequest(filename="file", mode=mode, options=pairs)


def capture(name: str) -> bytes:
    lines = (CAPTURES / f"{name}.hex").read_text().splitlines()
    return bytes.fromhex("".join(line for line in lines if not line.startswith("#")))


def captured_request(name: str) -> ReadRequest:
    packet = parse(capture(name))
    assert isinstance(packet, ReadRequest)
    return packet


def sent(transfer: Transfer) -> list[Packet]:
    return [parse(datagram) for datagram in transfer.datagrams_to_send()]


def tell(transfer: Transfer, packet: Packet, *, now: float = 0.0) -> list[Packet]:
    transfer.receive_datagram(packet.serialize(), now=now)
    return sent(transfer)


def blocks(packets: Sequence[Packet]) -> list[int]:
    numbers = [packet.block for packet in packets if isinstance(packet, Data)]
    assert len(numbers) == len(packets), f"not only DATA: {packets}"
    return numbers


def offer(request: ReadRequest, size: int = 1000) -> tuple[tuple[str, str], ...]:
    """The options a transfer offers; none when it begins with DATA."""
    (first,) = sent(Transfer(request, Content(bytes(size)), now=0.0))
    if isinstance(first, Data):
        return ()
    assert isinstance(first, OptionAck)
    return first.options


def octets(size: int) -> bytes:
    return random.Random(size).randbytes(size)


class TestNegotiation:
    """RFC 2347, 2348, 2349, 7440."""

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, {}),
            ({"blksize": 1428}, {"blksize": 1428}),
            ({"blksize": 8}, {"blksize": 8}),
            ({"blksize": 7}, {}),
            ({"blksize": 1469}, {"blksize": 1468}),
            ({"blksize": 65464}, {"blksize": 1468}),
            ({"blksize": "abc"}, {}),
            ({"blksize": "-512"}, {}),
            ({"blksize": "+512"}, {}),
            ({"blksize": " 512"}, {}),
            ({"blksize": "512.0"}, {}),
            ({"blksize": ""}, {}),
            ({"blksize": "\u0665\u0661\u0662"}, {}),
            ({"blksize": "9" * 5000}, {}),
            ({"tsize": 0}, {"tsize": 1000}),
            ({"tsize": 77}, {"tsize": 1000}),
            ({"timeout": 1}, {"timeout": 1}),
            ({"timeout": MAX_TIMEOUT_OPTION_S}, {"timeout": MAX_TIMEOUT_OPTION_S}),
            ({"timeout": MAX_TIMEOUT_OPTION_S + 1}, {}),
            ({"timeout": 0}, {}),
            ({"windowsize": 1}, {"windowsize": 1}),
            ({"windowsize": 16}, {"windowsize": 16}),
            ({"windowsize": 17}, {"windowsize": 16}),
            ({"windowsize": 65535}, {"windowsize": 16}),
            ({"windowsize": 65536}, {}),
            ({"windowsize": 0}, {}),
            ({"multicast": "", "msftwindow": "31416", "x": ""}, {}),
            ({"multicast": "", "tsize": 0}, {"tsize": 1000}),
        ],
    )
    def test_each_option(self, options: dict[str, int | str], expected: dict[str, int]) -> None:
        want = tuple((name, str(value)) for name, value in expected.items())
        assert offer(request(**options)) == want

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("edk2_size_probe_rrq", (("tsize", "1000"), ("blksize", "1468"), ("windowsize", "4"))),
            ("edk2_read_rrq", (("blksize", "1468"), ("windowsize", "4"))),
            (
                "ovmf_2022_size_probe_rrq",
                (("tsize", "1000"), ("blksize", "1468"), ("windowsize", "4")),
            ),
            ("ovmf_2022_read_rrq", (("blksize", "1468"), ("windowsize", "4"))),
            ("ipxe_rrq", (("blksize", "1432"), ("tsize", "1000"))),
            ("uboot_rrq", (("timeout", "5"), ("tsize", "1000"), ("blksize", "1468"))),
            ("raspberrypi_4_rrq", (("tsize", "1000"), ("blksize", "1024"))),
            ("raspberrypi_2_tsize_only_rrq", (("tsize", "1000"),)),
            ("curl_8_rrq", (("tsize", "1000"), ("blksize", "512"), ("timeout", "6"))),
            ("tcpdump_plain_rrq", ()),
        ],
    )
    def test_recorded_requests_in_their_own_order(
        self, name: str, expected: tuple[tuple[str, str], ...]
    ) -> None:
        assert offer(captured_request(name)) == expected

    def test_an_option_given_twice_counts_once(self) -> None:
        twice = (("blksize", "1000"), ("blksize", "600"))
        assert offer(ReadRequest(filename="f", mode="octet", options=twice)) == twice[:1]

    def test_an_invalid_first_value_leaves_room_for_a_valid_one(self) -> None:
        twice = (("blksize", "junk"), ("blksize", "600"))
        assert offer(ReadRequest(filename="f", mode="octet", options=twice)) == twice[1:]

    def test_netascii_has_neither_size_nor_window(self) -> None:
        asked = request("netascii", tsize=0, windowsize=4, blksize=600, timeout=3)
        assert offer(asked) == (("blksize", "600"), ("timeout", "3"))

    def test_the_limits_are_the_callers(self) -> None:
        asked = request(blksize=1468, windowsize=16)
        transfer = Transfer(asked, Content(b""), now=0.0, max_blksize=1000, max_windowsize=2)
        assert sent(transfer) == [OptionAck(options=(("blksize", "1000"), ("windowsize", "2")))]

    @pytest.mark.parametrize("mode", ["mail", "", "octe", "x" * 1000])
    def test_other_modes_are_illegal(self, mode: str) -> None:
        transfer = Transfer(request(mode), Content(b"x"), now=0.0)
        (packet,) = sent(transfer)
        assert isinstance(packet, Error)
        assert packet.code == ErrorCode.ILLEGAL_OPERATION
        assert len(packet.message) < 120
        assert isinstance(transfer.outcome, Failed)


class TestLockStep:
    """RFC 1350."""

    @pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024, 5000])
    def test_blocks_until_a_short_one(self, size: int) -> None:
        content = octets(size)
        transfer = Transfer(request(), Content(content), now=0.0)
        received = b""
        for block in range(1, size // 512 + 2):
            (packet,) = sent(transfer)
            assert isinstance(packet, Data)
            assert packet.block == block
            received += packet.payload
            transfer.receive_datagram(Ack(block=block).serialize(), now=0.0)
        assert received == content
        assert transfer.outcome == Completed(
            bytes_sent=size, blocks=size // 512 + 1, retransmits=0, acknowledged=True
        )
        assert transfer.get_timer() is None

    def test_data_waits_for_ack_0_after_an_oack(self) -> None:
        transfer = Transfer(request(blksize=8), Content(b"0123456789"), now=0.0)
        assert sent(transfer) == [OptionAck(options=(("blksize", "8"),))]
        heard_before = transfer.heard
        assert tell(transfer, Ack(block=1)) == []
        assert tell(transfer, Ack(block=0)) == [Data(block=1, payload=b"01234567")]
        assert (heard_before, transfer.heard) == (False, True)
        assert tell(transfer, Ack(block=0)) == []
        assert tell(transfer, Ack(block=1)) == [Data(block=2, payload=b"89")]

    @pytest.mark.parametrize("block", [0, 1, 4, 5, 65535])
    def test_acks_old_or_ahead_change_nothing(self, block: int) -> None:
        transfer = Transfer(request(), Content(bytes(10_000)), now=0.0)
        for number in (1, 2):
            tell(transfer, Ack(block=number))
        assert tell(transfer, Ack(block=block)) == []
        assert transfer.outcome is None
        assert len(tell(transfer, Ack(block=3))) == 1

    def test_70000_blocks_roll_over_and_doubled_acks_draw_no_data(self) -> None:
        content = octets(70_000 * 8 - 1)
        transfer = Transfer(request(blksize=8), Content(content), now=0.0)
        transfer.datagrams_to_send()
        transfer.receive_datagram(Ack(block=0).serialize(), now=0.0)
        received = []
        numbers = []
        datagrams = transfer.datagrams_to_send()
        while datagrams:
            (datagram,) = datagrams
            assert datagram[:2] == b"\0\3"
            numbers.append(int.from_bytes(datagram[2:4], "big"))
            received.append(datagram[4:])
            ack = b"\0\4" + datagram[2:4]
            transfer.receive_datagram(ack, now=0.0)
            datagrams = transfer.datagrams_to_send()
            transfer.receive_datagram(ack, now=0.0)
            assert transfer.datagrams_to_send() == []
        assert b"".join(received) == content
        assert numbers == [block % 65536 for block in range(1, 70_001)]
        assert transfer.outcome == Completed(
            bytes_sent=len(content), blocks=70_000, retransmits=0, acknowledged=True
        )

    def test_nothing_happens_after_the_end(self) -> None:
        transfer = Transfer(request(), Content(b"x"), now=0.0)
        tell(transfer, Ack(block=1))
        outcome = transfer.outcome
        assert isinstance(outcome, Completed)
        assert tell(transfer, Ack(block=1)) == []
        assert tell(transfer, Error(code=0, message="late")) == []
        transfer.handle_timer(now=1000.0)
        transfer.abort("late")
        assert sent(transfer) == []
        assert transfer.outcome is outcome


class TestWindows:
    """RFC 7440."""

    def start(self, size: int = 80, windowsize: int = 4) -> Transfer:
        transfer = Transfer(
            request(blksize=8, windowsize=windowsize), Content(octets(size)), now=0.0
        )
        transfer.datagrams_to_send()
        return transfer

    def test_whole_windows_go_out(self) -> None:
        transfer = self.start()
        assert blocks(tell(transfer, Ack(block=0))) == [1, 2, 3, 4]
        assert blocks(tell(transfer, Ack(block=4))) == [5, 6, 7, 8]
        assert blocks(tell(transfer, Ack(block=8))) == [9, 10, 11]
        assert tell(transfer, Ack(block=11)) == []
        assert isinstance(transfer.outcome, Completed)

    def test_an_ack_inside_the_window_starts_the_next_behind_it(self) -> None:
        transfer = self.start()
        tell(transfer, Ack(block=0))
        assert blocks(tell(transfer, Ack(block=2))) == [3, 4, 5, 6]
        assert tell(transfer, Ack(block=2)) == []
        assert blocks(tell(transfer, Ack(block=6))) == [7, 8, 9, 10]

    def test_a_late_ack_does_not_go_back(self) -> None:
        transfer = self.start()
        tell(transfer, Ack(block=0))
        tell(transfer, Ack(block=4))
        assert tell(transfer, Ack(block=2)) == []
        assert tell(transfer, Ack(block=9)) == []
        assert blocks(tell(transfer, Ack(block=5))) == [6, 7, 8, 9]

    def test_the_last_window_may_be_acknowledged_in_parts(self) -> None:
        transfer = self.start(size=20)
        assert blocks(tell(transfer, Ack(block=0))) == [1, 2, 3]
        assert blocks(tell(transfer, Ack(block=1))) == [2, 3]
        assert tell(transfer, Ack(block=3)) == []
        assert isinstance(transfer.outcome, Completed)

    def test_the_timer_sends_the_window_again(self) -> None:
        transfer = self.start()
        tell(transfer, Ack(block=0))
        tell(transfer, Ack(block=4))
        timer = transfer.get_timer()
        assert timer is not None
        transfer.handle_timer(now=timer)
        assert blocks(sent(transfer)) == [5, 6, 7, 8]
        transfer.abort("enough")
        assert transfer.outcome == Aborted(
            bytes_sent=64, blocks=8, retransmits=4, size_probe=False, reason="enough"
        )

    def test_windows_cross_the_roll_over(self) -> None:
        transfer = self.start(size=65_540 * 8, windowsize=10)
        packets = tell(transfer, Ack(block=0))
        acked = 0
        while acked < 65_530:
            acked += len(packets)
            packets = tell(transfer, Ack(block=acked % 65536))
        assert acked == 65_530
        assert blocks(packets) == [65531, 65532, 65533, 65534, 65535, 0, 1, 2, 3, 4]
        assert blocks(tell(transfer, Ack(block=0))) == [1, 2, 3, 4, 5]
        assert tell(transfer, Ack(block=65535)) == []
        assert tell(transfer, Ack(block=5)) == []
        assert isinstance(transfer.outcome, Completed)


def run_timer(transfer: Transfer) -> list[tuple[float, int]]:
    """Let time pass in silence: when packets went out again, and how many at once."""
    repeats = []
    while (timer := transfer.get_timer()) is not None:
        transfer.handle_timer(now=timer - 0.001)
        assert transfer.datagrams_to_send() == []
        transfer.handle_timer(now=timer)
        packets = transfer.datagrams_to_send()
        if packets:
            repeats.append((timer, len(packets)))
    return repeats


class TestTimers:
    def test_an_oack_without_answer_goes_out_five_times(self) -> None:
        transfer = Transfer(request(tsize=0), Content(bytes(1000)), now=0.0)
        first = transfer.datagrams_to_send()
        timer = transfer.get_timer()
        assert timer is not None
        transfer.handle_timer(now=timer)
        assert transfer.datagrams_to_send() == first
        assert run_timer(transfer) == [(3.0, 1), (7.0, 1), (15.0, 1)]
        assert transfer.outcome == Failed(
            bytes_sent=0,
            blocks=0,
            retransmits=FIRST_RETRIES,
            reason="no answer to the first packet, sent 5 times",
        )

    def test_a_first_block_without_answer_goes_out_five_times(self) -> None:
        transfer = Transfer(request(), Content(bytes(1000)), now=100.0)
        transfer.datagrams_to_send()
        assert run_timer(transfer) == [(101.0, 1), (103.0, 1), (107.0, 1), (115.0, 1)]
        assert isinstance(transfer.outcome, Failed)
        assert transfer.outcome.bytes_sent == 512

    def test_a_block_in_the_middle_goes_out_until_the_idle_limit(self) -> None:
        transfer = Transfer(request(), Content(bytes(5000)), now=0.0)
        tell(transfer, Ack(block=1), now=10.0)
        repeats = [when - 10.0 for when, _ in run_timer(transfer)]
        assert repeats == [1.0, 3.0, 7.0, 15.0, 23.0, 31.0, 39.0, 47.0, 55.0]
        assert isinstance(transfer.outcome, Failed)
        assert transfer.outcome.reason == "block 2 is unanswered for 60 s"

    def test_a_last_block_without_answer_counts_as_arrived(self) -> None:
        transfer = Transfer(request(), Content(bytes(600)), now=0.0)
        tell(transfer, Ack(block=1))
        assert len(run_timer(transfer)) == LAST_RETRIES
        assert transfer.outcome == Completed(
            bytes_sent=600, blocks=2, retransmits=LAST_RETRIES, acknowledged=False
        )

    def test_progress_starts_the_back_off_anew(self) -> None:
        transfer = Transfer(request(), Content(bytes(5000)), now=0.0)
        tell(transfer, Ack(block=1), now=0.0)
        transfer.handle_timer(now=1.0)
        transfer.handle_timer(now=3.0)
        assert transfer.get_timer() == 7.0
        tell(transfer, Ack(block=2), now=4.0)
        assert transfer.get_timer() == 5.0

    def test_duplicates_are_no_progress(self) -> None:
        transfer = Transfer(request(), Content(bytes(5000)), now=0.0)
        tell(transfer, Ack(block=1), now=0.0)
        timer = transfer.get_timer()
        assert tell(transfer, Ack(block=1), now=0.9) == []
        assert transfer.get_timer() == timer

    def test_the_timeout_option_sets_the_pace(self) -> None:
        transfer = Transfer(request(timeout=5), Content(bytes(5000)), now=0.0)
        tell(transfer, Ack(block=0), now=0.0)
        tell(transfer, Ack(block=1), now=0.0)
        assert [when for when, _ in run_timer(transfer)] == [5, 13, 21, 29, 37, 45, 53]

    def test_a_long_timeout_still_ends_at_the_idle_limit(self) -> None:
        transfer = Transfer(request(timeout=30), Content(bytes(5)), now=0.0)
        tell(transfer, Ack(block=0), now=0.0)
        assert [when for when, _ in run_timer(transfer)] == [30.0]
        assert isinstance(transfer.outcome, Completed)
        assert not transfer.outcome.acknowledged

    def test_a_wake_long_overdue_ends_it(self) -> None:
        transfer = Transfer(request(), Content(bytes(5000)), now=0.0)
        tell(transfer, Ack(block=1), now=0.0)
        transfer.handle_timer(now=IDLE_LIMIT_S + 1)
        assert sent(transfer) == []
        assert isinstance(transfer.outcome, Failed)


class TestTheClientEndsIt:
    @pytest.mark.parametrize("name", ["edk2", "ovmf_2022"])
    def test_edk2_probes_the_size(self, name: str) -> None:
        source = Content(bytes(3000))
        transfer = Transfer(captured_request(f"{name}_size_probe_rrq"), source, now=0.0)
        transfer.datagrams_to_send()
        transfer.receive_datagram(capture(f"{name}_size_probe_error"), now=0.1)
        assert sent(transfer) == []
        assert transfer.get_timer() is None
        assert transfer.outcome == Aborted(
            bytes_sent=0,
            blocks=0,
            retransmits=0,
            size_probe=True,
            reason="the client sent ERROR 8: 'User aborted the transfer'",
        )
        again = Transfer(captured_request(f"{name}_read_rrq"), source, now=0.2)
        assert sent(again) == [OptionAck(options=(("blksize", "1468"), ("windowsize", "4")))]
        assert blocks(tell(again, Ack(block=0))) == [1, 2, 3]

    @pytest.mark.parametrize(
        ("options", "answered", "code", "size_probe"),
        [
            ({"tsize": 0}, False, 0, True),
            ({"tsize": 0}, False, 8, True),
            ({"tsize": 0}, False, 3, False),
            ({"tsize": 0}, True, 0, False),
            ({"blksize": 1000}, False, 8, False),
            ({}, False, 0, False),
        ],
    )
    def test_an_error_ends_it_silently(
        self, options: dict[str, int | str], answered: bool, code: int, size_probe: bool
    ) -> None:
        transfer = Transfer(request(**options), Content(bytes(3000)), now=0.0)
        transfer.datagrams_to_send()
        if answered:
            tell(transfer, Ack(block=0))
        assert tell(transfer, Error(code=code, message="stop")) == []
        assert isinstance(transfer.outcome, Aborted)
        assert transfer.outcome.size_probe is size_probe
        assert transfer.get_timer() is None

    def test_its_words_are_escaped_and_cut(self) -> None:
        transfer = Transfer(request(), Content(b""), now=0.0)
        tell(transfer, Error(code=3, message="\x1b[2J\n" + "x" * 10_000))
        assert isinstance(transfer.outcome, Aborted)
        assert transfer.outcome.reason.isprintable()
        assert len(transfer.outcome.reason) < 200

    @pytest.mark.parametrize(
        "datagram",
        [
            b"",
            b"\0",
            b"\0\4",
            b"\0\x09xx",
            Data(block=1, payload=b"").serialize(),
            OptionAck(options=()).serialize(),
            request().serialize(),
        ],
    )
    def test_junk_is_refused_and_changes_nothing(self, datagram: bytes) -> None:
        transfer = Transfer(request(), Content(bytes(600)), now=0.0)
        transfer.datagrams_to_send()
        timer = transfer.get_timer()
        with pytest.raises(PacketError):
            transfer.receive_datagram(datagram, now=0.5)
        assert transfer.get_timer() == timer
        assert len(tell(transfer, Ack(block=1))) == 1

    def test_abort_before_any_answer(self) -> None:
        transfer = Transfer(request(), Content(b"one block"), now=0.0)
        transfer.datagrams_to_send()
        transfer.abort("gone")
        assert isinstance(transfer.outcome, Aborted)
        assert transfer.outcome.reason == "gone"

    def test_abort_after_the_last_block_means_it_arrived(self) -> None:
        transfer = Transfer(request(), Content(bytes(600)), now=0.0)
        tell(transfer, Ack(block=1))
        transfer.abort("the client asked for the next file")
        assert isinstance(transfer.outcome, Completed)
        assert not transfer.outcome.acknowledged


class TestTheFile:
    def test_one_that_shrinks_is_an_error(self) -> None:
        source = Content(bytes(3000))
        transfer = Transfer(request(), source, now=0.0)
        transfer.datagrams_to_send()
        source.content = bytes(700)
        (packet,) = tell(transfer, Ack(block=1))
        assert isinstance(packet, Error)
        assert packet.code == ErrorCode.UNDEFINED
        assert "became shorter" in packet.message
        assert isinstance(transfer.outcome, Failed)
        assert transfer.outcome.bytes_sent == 512

    def test_one_that_grows_is_sent_as_it_was_announced(self) -> None:
        source = Content(bytes(600))
        transfer = Transfer(request(), source, now=0.0)
        transfer.datagrams_to_send()
        source.content = bytes(3000)
        assert tell(transfer, Ack(block=1)) == [Data(block=2, payload=bytes(88))]

    def test_a_disk_that_fails_is_an_error(self) -> None:
        source = Content(bytes(600))
        source.fault = OSError(5, "Input/output error")
        transfer = Transfer(request(), source, now=0.0)
        (packet,) = sent(transfer)
        assert isinstance(packet, Error)
        assert isinstance(transfer.outcome, Failed)
        assert "Input/output error" in transfer.outcome.reason


class TestNetascii:
    """RFC 764 and 1350: lines end in CR LF, a lone CR is CR NUL."""

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (b"", b""),
            (b"line\n", b"line\r\n"),
            (b"a\rb", b"a\r\0b"),
            (b"dos\r\n", b"dos\r\0\r\n"),
            (b"\n" * 256, b"\r\n" * 256),
            (b"x" * 511 + b"\n" + b"tail", b"x" * 511 + b"\r\ntail"),
            (b"\r\n" * 1000, b"\r\0\r\n" * 1000),
        ],
    )
    def test_the_text_is_converted(self, content: bytes, text: bytes) -> None:
        transfer = Transfer(request("netascii"), Content(content), now=0.0)
        received = b""
        while transfer.outcome is None:
            (packet,) = sent(transfer)
            assert isinstance(packet, Data)
            received += packet.payload
            transfer.receive_datagram(Ack(block=packet.block).serialize(), now=0.0)
        assert received == text
        assert transfer.outcome == Completed(
            bytes_sent=len(text), blocks=len(text) // 512 + 1, retransmits=0, acknowledged=True
        )

    def test_a_repeated_block_is_the_same(self) -> None:
        transfer = Transfer(request("netascii"), Content(b"\n" * 2000), now=0.0)
        first = sent(transfer)
        transfer.handle_timer(now=1.0)
        assert sent(transfer) == first
        (second,) = tell(transfer, Ack(block=1), now=1.0)
        transfer.handle_timer(now=2.0)
        assert sent(transfer) == [second]
        transfer.abort("enough")
        assert isinstance(transfer.outcome, Aborted)
        assert transfer.outcome.bytes_sent == 1024

    def test_one_that_shrinks_is_an_error(self) -> None:
        source = Content(bytes(3000))
        transfer = Transfer(request("netascii"), source, now=0.0)
        source.content = b""
        tell(transfer, Ack(block=1))
        assert isinstance(transfer.outcome, Failed)


@dataclass
class Reader:
    """A client as RFC 1350 and 7440 want it: ACK at the end of a window, at a gap, at the end."""

    blksize: int
    windowsize: int
    received: bytearray = field(default_factory=bytearray)
    last: int = 0
    in_window: int = 0
    done: bool = False

    def receive(self, datagram: bytes) -> list[bytes]:
        packet = parse(datagram)
        if isinstance(packet, OptionAck):
            return [Ack(block=0).serialize()] if not self.last else []
        assert isinstance(packet, Data)
        if packet.block != (self.last + 1) & 0xFFFF:
            self.in_window = 0
            return [self.ack()]
        self.last += 1
        self.in_window += 1
        self.received += packet.payload
        self.done = len(packet.payload) < self.blksize
        if self.done or self.in_window == self.windowsize:
            self.in_window = 0
            return [self.ack()]
        return []

    def ack(self) -> bytes:
        return Ack(block=self.last & 0xFFFF).serialize()


def exchange(transfer: Transfer, reader: Reader, rng: random.Random, loss: float) -> None:
    """Carry datagrams over a wire that loses, doubles, delays and reorders them."""
    wire: list[tuple[float, int, bool, bytes]] = []
    now, serial = 0.0, 0

    def post(datagrams: list[bytes], *, to_reader: bool) -> None:
        nonlocal serial
        for datagram in datagrams:
            for _ in range(2 if rng.random() < loss else 1):
                serial += 1
                if rng.random() >= loss:
                    delay = rng.uniform(0.001, 0.5 if rng.random() < loss else 0.002)
                    heapq.heappush(wire, (now + delay, serial, to_reader, datagram))

    post(transfer.datagrams_to_send(), to_reader=True)
    while transfer.outcome is None:
        timer = transfer.get_timer()
        assert timer is not None
        if wire and wire[0][0] <= timer:
            now, _, to_reader, datagram = heapq.heappop(wire)
            if to_reader:
                post(reader.receive(datagram), to_reader=False)
            else:
                transfer.receive_datagram(datagram, now=now)
        else:
            now = timer
            transfer.handle_timer(now=now)
        post(transfer.datagrams_to_send(), to_reader=True)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("windowsize", [1, 2, 4, 16])
@pytest.mark.parametrize("blksize", [8, 512, 1468])
def test_a_bad_wire_loses_time_but_no_byte(blksize: int, windowsize: int, seed: int) -> None:
    rng = random.Random(f"{blksize} {windowsize} {seed}")
    content = rng.randbytes(blksize * 60 + rng.randrange(blksize))
    asked = request(blksize=blksize, windowsize=windowsize)
    transfer = Transfer(asked, Content(content), now=0.0)
    reader = Reader(blksize=blksize, windowsize=windowsize)
    exchange(transfer, reader, rng, loss=0.1)
    assert isinstance(transfer.outcome, Completed), transfer.outcome
    assert reader.done
    assert reader.received == content


@pytest.mark.parametrize("windowsize", [1, 4, 16])
def test_a_good_wire_needs_no_repeats(windowsize: int) -> None:
    content = octets(100_000)
    transfer = Transfer(request(blksize=512, windowsize=windowsize), Content(content), now=0.0)
    reader = Reader(blksize=512, windowsize=windowsize)
    pending = transfer.datagrams_to_send()
    while transfer.outcome is None:
        answers = [answer for datagram in pending for answer in reader.receive(datagram)]
        assert len(answers) == 1
        transfer.receive_datagram(answers[0], now=0.0)
        pending = transfer.datagrams_to_send()
    assert reader.received == content
    assert transfer.outcome == Completed(
        bytes_sent=100_000, blocks=196, retransmits=0, acknowledged=True
    )
