"""Chain-loads that lead nowhere: who was sent a boot program and came back as it was.

An iPXE that cannot run our scripts is sent another one, which asks DHCP once more. If that one is
no better, or never starts, the same question comes again, for ever. Rules:

- What counts is a new question: another xid, or a DISCOVER after the REQUEST before. A client that
  only repeats itself is told the same again.
- A client comes back "the same" if it would be sent the same file, within WINDOW_S of the last
  time. The file is told by the end of its path: each of our addresses makes another URL of it.
- After CHAINS_MAX times it is sent nothing; REST_S after the last time it is tried anew, as the
  file may have been mended meanwhile.
- Who is seen to get on, as by its boot script, is forgotten: see `forget`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from bootnode.addresses import MacAddress

CHAINS_MAX: Final = 2
"""Times that a client is sent the same boot program before that counts as a circle."""
WINDOW_S: Final = 20.0
"""Seconds within which it has to be back for that: iPXE waits 15 s for its link, the rest takes 2.
A virtual machine may start anew as quickly, but not if what it was sent has got to run first."""
REST_S: Final = 60.0
"""Seconds after the last time in which it is sent nothing once that was a circle."""
MACS_MAX: Final = 1024
"""Clients remembered; beyond that the one whose circle began first is forgotten."""


@dataclass(slots=True)
class _Chain:
    """What one client was sent, and in which conversation."""

    file: str
    xid: int
    sent: float
    times: int = 1
    is_requested: bool = False
    is_stopped: bool = False

    def is_new(self, xid: int, *, is_discover: bool) -> bool:
        """Whether this message begins another conversation.

        A REQUEST goes on with what a DISCOVER began, also where a client gives it another xid.
        """
        if is_discover:
            return xid != self.xid or self.is_requested
        return xid != self.xid and self.is_requested

    def is_over(self, now: float) -> bool:
        """Whether coming back so late is coming back for another reason."""
        return now - self.sent > (REST_S if self.is_stopped else WINDOW_S)


@dataclass(slots=True)
class ChainLoads:
    """The recent chain-loads of every client."""

    _chains: OrderedDict[MacAddress, _Chain] = field(default_factory=OrderedDict)

    def is_circle(
        self, mac: MacAddress, name: str, *, xid: int, is_discover: bool, now: float
    ) -> bool:
        """Whether to send this client this boot program would send it in circles.

        Called for each message that is answered; every one of a conversation gets the same answer.
        """
        file = name.rpartition("/")[2]
        chain = self._chains.get(mac)
        if chain is None or chain.file != file or chain.is_over(now):
            chain = self._chains[mac] = _Chain(file=file, xid=xid, sent=now)
            self._chains.move_to_end(mac)
            if len(self._chains) > MACS_MAX:
                self._chains.popitem(last=False)
        elif chain.is_new(xid, is_discover=is_discover):
            chain.xid, chain.is_requested = xid, False
            chain.is_stopped = chain.times >= CHAINS_MAX
            if not chain.is_stopped:
                chain.times, chain.sent = chain.times + 1, now
        chain.is_requested |= not is_discover
        return chain.is_stopped

    def hear_request(self, mac: MacAddress) -> None:
        """A REQUEST that another server answers: what comes next is another conversation."""
        chain = self._chains.get(mac)
        if chain is not None:
            chain.is_requested = True

    def forget(self, mac: MacAddress) -> None:
        """This client got on."""
        self._chains.pop(mac, None)
