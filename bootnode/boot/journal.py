"""How far each node has come: its boots, their stages, and what was noteworthy on the way.

The protocol servers tell the journal what happened and to which hardware address; the journal
knows what that means for the boot. It holds a bounded past in memory and knows no clock.

A boot begins with a DISCOVER by firmware, or by iPXE when the boot before had got past its
loader: the same machine asks DHCP two or three times in one boot, each time with another voice,
or with iPXE's twice where one iPXE has loaded another.
An operating system's DISCOVER never begins one.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address

from bootnode.addresses import MacAddress
from bootnode.boot.client import Speaker
from bootnode.boot.plan import Hold, ImageBoot, ScriptPlan

BOOTS_KEPT = 10
"""Boots remembered for each node."""
NOTES_KEPT = 50
"""Notes remembered for each node."""
NODES_KEPT = 16384
"""Hardware addresses remembered; beyond that the one not heard of for longest is forgotten."""
RETRY_S = 120
"""Seconds within which a DISCOVER after a DISCOVER is a retry: ROMs wait 4, 8, 16 and 32 s."""
REPORT_MAX = 400
"""Characters of a node's report that are kept."""
FETCH_SILENCE_S = 3600
"""Seconds after which a node that has asked for nothing more was switched off in mid-boot: init
gives up on a silent server much sooner, but one download by a slow line makes no sign for long."""


class Stage(StrEnum):
    """The stages of a boot in their order, and its bad end."""

    DISCOVER = "discover"
    OFFER = "offer"
    REQUEST = "request"
    ACK = "ack"
    LOADER = "loader"
    SCRIPT = "script"
    KERNEL = "kernel"
    INITRD = "initrd"
    INIT = "init"
    ROOT = "root"
    SWITCH = "switch"
    UP = "up"
    FAILED = "failed"


ORDER = {stage: rank for rank, stage in enumerate(Stage)}
REPORTED_STAGES = frozenset({Stage.INIT, Stage.ROOT, Stage.SWITCH, Stage.UP, Stage.FAILED})
"""The stages that only the node itself can tell of."""
FETCHING_STAGES = frozenset({Stage.SCRIPT, Stage.KERNEL, Stage.INITRD, Stage.INIT, Stage.ROOT})
"""The stages in which a node may yet ask for files of its image."""


@dataclass(slots=True)
class Boot:
    """One boot of one node."""

    began: float
    """Unix time of its first DISCOVER."""
    stages: dict[Stage, float] = field(default_factory=dict)
    """Unix time at which each stage was first reached."""
    stage: Stage = Stage.DISCOVER
    """The last stage reached."""
    detail: str = ""
    """What the last stage said of itself: a file, an address, the reason of a failure."""
    image: str = ""
    """`name/version`, once the script was given."""
    fetched: float = 0.0
    """Unix time of the last sign that it takes what its image has; 0 before one, or once failed."""

    speaker: Speaker = Speaker.FIRMWARE
    """Who sent the last DISCOVER."""
    asked: float = 0.0
    """Unix time of the last DISCOVER."""
    answered: Stage = Stage.DISCOVER
    """The last stage reached since that DISCOVER."""

    def is_over_for(self, speaker: Speaker, now: float) -> bool:
        """Whether a DISCOVER by this voice means that the machine has started again."""
        if ORDER[self.stage] > ORDER[Stage.LOADER]:
            return True
        if self.stage in (Stage.DISCOVER, Stage.OFFER):
            return now - self.began > RETRY_S
        if speaker is not self.speaker:
            # iPXE after firmware is the same boot going on; firmware after iPXE is the next one.
            return speaker is not Speaker.IPXE
        # An iPXE that fetched a loader is followed by the iPXE which that is.
        is_chained = speaker is Speaker.IPXE and self.answered is Stage.LOADER
        is_retry = self.answered in (Stage.DISCOVER, Stage.OFFER)
        return not (is_retry or is_chained) or now - self.asked > RETRY_S

    def discover(self, speaker: Speaker, now: float) -> None:
        """Note a DISCOVER that belongs to this boot."""
        self.speaker, self.asked, self.answered = speaker, now, Stage.DISCOVER
        self.reach(Stage.DISCOVER, speaker.value, now)

    def reach(self, stage: Stage, detail: str, now: float) -> None:
        """Note a stage; one that lies before the last reached moves nothing back."""
        self.stages.setdefault(stage, now)
        self.answered = stage
        if stage in FETCHING_STAGES:
            self.fetched = max(self.fetched, now)
        elif stage is Stage.FAILED:
            self.fetched = 0.0
        if ORDER[stage] >= ORDER[self.stage] or self.stage is Stage.FAILED:
            self.stage, self.detail = stage, detail

    def may_fetch(self, now: float) -> bool:
        """Whether the node may yet ask for files of its image, which must stay so long."""
        is_over = self.stage in (Stage.SWITCH, Stage.UP)
        return bool(self.image) and not is_over and now - self.fetched <= FETCH_SILENCE_S

    @property
    def is_running(self) -> bool:
        """Whether the image runs on the node: well, or so that it could say that it does not."""
        is_over = self.stage in (Stage.SWITCH, Stage.UP, Stage.FAILED)
        return bool(self.image) and is_over and Stage.INIT in self.stages


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something worth knowing that is no stage."""

    time: float
    text: str


@dataclass(slots=True)
class Record:
    """What is remembered of one hardware address."""

    # Lists, for an empty deque takes ten times their memory.
    boots: list[Boot] = field(default_factory=list)
    """The last BOOTS_KEPT, the latest at the end."""
    notes: list[Note] = field(default_factory=list)
    """The last NOTES_KEPT, the latest at the end."""
    address: IPv4Address | None = None
    """The address it was last seen with."""
    last_seen: float = 0.0
    """Unix time."""

    @property
    def boot(self) -> Boot | None:
        """The boot under way, or the last one."""
        return self.boots[-1] if self.boots else None

    def begin(self, now: float) -> Boot:
        """Another boot."""
        self.boots.append(Boot(began=now))
        del self.boots[:-BOOTS_KEPT]
        return self.boots[-1]

    def note(self, note: Note) -> None:
        """One more thing worth knowing."""
        self.notes.append(note)
        del self.notes[:-NOTES_KEPT]


@dataclass(slots=True)
class Journal:
    """Every node's record, and the counters of the whole server."""

    counters: Counter[str] = field(default_factory=Counter)
    """How often each thing happened, by a dotted name such as `dhcp.malformed`."""
    on_further: Callable[[MacAddress], None] = lambda _mac: None
    """Called when a node is past its loader: it runs what it was sent."""
    _records: OrderedDict[MacAddress, Record] = field(default_factory=OrderedDict)
    _by_address: dict[IPv4Address, MacAddress] = field(default_factory=dict)
    """The node of each address that a record has; no two records have the same."""

    def __iter__(self) -> Iterator[tuple[MacAddress, Record]]:
        return iter(self._records.items())

    def get(self, mac: MacAddress) -> Record | None:
        """What is remembered of this hardware address."""
        return self._records.get(mac)

    def count(self, name: str) -> None:
        """Count one occurrence."""
        self.counters[name] += 1

    def discover(self, mac: MacAddress, speaker: Speaker, *, now: float) -> None:
        """A client looks for a DHCP server; this may be the beginning of a boot."""
        record = self._touch(mac, now)
        if speaker is Speaker.OS:
            return
        boot = record.boot
        if boot is None or boot.is_over_for(speaker, now):
            boot = record.begin(now)
        boot.discover(speaker, now)

    def reach(self, mac: MacAddress, stage: Stage, *, now: float, detail: str = "") -> None:
        """A stage after DISCOVER was reached; without a boot under way it begins one.

        That happens when this server was started while the node was booting.
        """
        record = self._touch(mac, now)
        if record.boot is None:
            record.begin(now)
        boot = record.boots[-1]
        boot.reach(stage, detail[:REPORT_MAX], now)
        if ORDER[stage] > ORDER[Stage.LOADER]:
            self.on_further(mac)

    def give_script(self, mac: MacAddress, plan: ScriptPlan, *, now: float) -> None:
        """The node was given a script that does this, by whatever protocol."""
        match plan:
            case ImageBoot(image=image):
                detail = f"{image.name}/{image.version}"
                self.reach(mac, Stage.SCRIPT, now=now, detail=detail)
                self.use_image(mac, detail)
            case Hold(reason=reason):
                self.reach(mac, Stage.FAILED, now=now, detail=reason)
            case _:
                self.reach(mac, Stage.SCRIPT, now=now, detail="local disk")
                self.use_image(mac, "")

    def use_image(self, mac: MacAddress, image: str) -> None:
        """The boot under way was given this image, as `name/version`; "" is the local disk."""
        record = self._records.get(mac)
        if record is not None and record.boot is not None:
            record.boot.image = image

    def fetch(
        self, mac: MacAddress, image: str, *, now: float, first: Stage = Stage.SCRIPT
    ) -> None:
        """The node asks for a file of this image, as `name/version`.

        So the image of a boot that was under way when this server was started gets known. `first`
        is the stage that such a boot must have reached.
        """
        record = self._touch(mac, now)
        boot = record.boot
        if boot is None or ORDER[boot.stage] < ORDER[first]:
            self.reach(mac, first, now=now, detail=image)
            record.boots[-1].image, record.boots[-1].fetched = image, now
        elif boot.image == image or (not boot.image and boot.stage in FETCHING_STAGES):
            boot.image, boot.fetched = image, now

    def note(self, mac: MacAddress, text: str, *, now: float) -> None:
        """Remember something that is no stage, such as an aborted transfer."""
        self._touch(mac, now).note(Note(time=now, text=text[:REPORT_MAX]))

    def locate(self, mac: MacAddress, address: IPv4Address, *, now: float) -> None:
        """The node was seen with this address."""
        record = self._touch(mac, now)
        before = self._by_address.get(address)
        if before is not None:
            # What one node has, no other has any more: reports count by address.
            self._records[before].address = None
        if record.address is not None:
            del self._by_address[record.address]
        record.address = address
        self._by_address[address] = mac

    def is_from(self, mac: MacAddress, address: IPv4Address | None, *, now: float) -> bool:
        """Whether a client is this node, as far as its address can tell.

        A node that we never saw an address of, as behind a relay in proxy mode, is believed.
        """
        if address is None or address.is_loopback:
            return False
        record = self.get(mac)
        if (record is None or record.address is None) and self.at(address) is None:
            self.locate(mac, address, now=now)
            return True
        return record is not None and record.address == address

    def at(self, address: IPv4Address) -> MacAddress | None:
        """Whose address this is, as last seen."""
        return self._by_address.get(address)

    def _touch(self, mac: MacAddress, now: float) -> Record:
        record = self._records.get(mac)
        if record is None:
            record = self._records[mac] = Record()
            if len(self._records) > NODES_KEPT:
                _, gone = self._records.popitem(last=False)
                if gone.address is not None:
                    del self._by_address[gone.address]
        self._records.move_to_end(mac)
        record.last_seen = max(record.last_seen, now)  # a report may speak of the past
        return record
