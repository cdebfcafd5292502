"""The lab: real firmware on qemu nodes, and the network they boot from, on one machine."""

from bootnode.lab.config import Accel, LabConfig
from bootnode.lab.host import Host
from bootnode.lab.lab import Lab
from bootnode.lab.process import LabProcess
from bootnode.lab.qemu import Firmware, NodeVm
from bootnode.lab.vm import RunningVm

__all__ = ["Accel", "Firmware", "Host", "Lab", "LabConfig", "LabProcess", "NodeVm", "RunningVm"]
