"""Chain-loads that lead nowhere: who was sent a boot program and came back as it was.

An iPXE that cannot run our scripts is sent another one, which asks DHCP once more. If that one is
no better, or never starts, the same question comes again, for ever. Rules:

- What counts is a new question: another xid, or a DISCOVER after the REQUEST before. A client that
  only repeats itself is told the same again.
- A client comes back "the same" if it would be sent the same file, within WINDOW_S of the last
  time.
- After CHAINS_MAX times it is sent nothing; WINDOW_S after the last time it is tried anew, as the
  file may have been mended meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from bootnode.addresses import MacAddress

CHAINS_MAX: Final = 2
"""Times that a client is sent the same boot program before that counts as a circle."""
WINDOW_S: Final = 60.0
"""Seconds within which it has to be back for that; a machine that starts anew takes longer."""
MACS_MAX: Final = 1024
"""Clients remembered; beyond that the one whose circle began first is forgotten."""


@dataclass(slots=True)
class _Chain:
    """What one client was sent, and in which conversation."""

    name: str
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


@dataclass(slots=True)
class ChainLoads:
    """The recent chain-loads of every client."""

    _chains: OrderedDict[MacAddress, _Chain] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._chains)

    def is_circle(
        self, mac: MacAddress, name: str, *, xid: int, is_discover: bool, now: float
    ) -> bool:
        """Whether to send this client this boot program would send it in circles.

        Called for each of its messages; every message of one conversation gets the same answer.
        """
        chain = self._chains.get(mac)
        if chain is None or chain.name != name or now - chain.sent > WINDOW_S:
            chain = self._chains[mac] = _Chain(name=name, xid=xid, sent=now)
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

    def forget(self, mac: MacAddress) -> None:
        """This client got on."""
        self._chains.pop(mac, None)
