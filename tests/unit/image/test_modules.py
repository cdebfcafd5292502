from __future__ import annotations

import pytest

from bootnode.image.modules import ModuleIndex, UnknownModulesError, module_name

INDEX = ModuleIndex.parse(
    dep="""\
kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/lib/crc16.ko
kernel/fs/jbd2/jbd2.ko:
kernel/lib/crc16.ko:
kernel/lib/libcrc32c.ko.xz:
kernel/arch/x86/crypto/crc32c-intel.ko:
kernel/crypto/crc32c_generic.ko:
kernel/drivers/net/ethernet/intel/igb/igb.ko: kernel/drivers/dca/dca.ko
kernel/drivers/net/ethernet/intel/e1000/e1000.ko:
kernel/drivers/dca/dca.ko:
kernel/drivers/char/hw_random/virtio-rng.ko:
""",
    alias="""\
# Aliases extracted from modules themselves.
alias pci:v00008086d0000100Esv*sd*bc*sc*i* e1000
alias crc32c crc32c_intel
alias crc32c crc32c-generic
alias fs-ext4 ext4
""",
    softdep="""\
# Soft dependencies extracted from modules themselves.
softdep jbd2 pre: crc32c
softdep libcrc32c pre: crc32c post: nothing_like_it
""",
    builtin="kernel/net/packet/af_packet.ko\nkernel/drivers/tty/serial/8250/8250.ko\n",
)

EXT4 = (
    "kernel/arch/x86/crypto/crc32c-intel.ko",
    "kernel/crypto/crc32c_generic.ko",
    "kernel/fs/ext4/ext4.ko",
    "kernel/fs/jbd2/jbd2.ko",
    "kernel/lib/crc16.ko",
)
INTEL = (
    "kernel/drivers/dca/dca.ko",
    "kernel/drivers/net/ethernet/intel/e1000/e1000.ko",
    "kernel/drivers/net/ethernet/intel/igb/igb.ko",
)


@pytest.mark.parametrize(
    ("wanted", "selected"),
    [
        ([], ()),
        (["crc16"], ("kernel/lib/crc16.ko",)),
        (["virtio_rng"], ("kernel/drivers/char/hw_random/virtio-rng.ko",)),
        (["virtio-rng"], ("kernel/drivers/char/hw_random/virtio-rng.ko",)),
        (["af_packet"], ()),
        (["ext4"], EXT4),
        (["ext4", "ext4", "jbd2"], EXT4),
        (["drivers/net/ethernet/intel/*"], INTEL),
        (["drivers/net/ethernet/intel/e1000/e1000.ko"], INTEL[1:2]),
        (["drivers/*/e1000*"], INTEL[1:2]),
        (["libcrc32c"], (*EXT4[:2], "kernel/lib/libcrc32c.ko.xz")),
    ],
)
def test_dependencies_come_along(wanted: list[str], selected: tuple[str, ...]) -> None:
    assert INDEX.select(wanted) == selected


def test_all_unknown_modules_are_named_at_once() -> None:
    with pytest.raises(UnknownModulesError) as caught:
        INDEX.select(["e100", "ext4", "nowhere/*", "qqqqqq"])
    assert str(caught.value) == (
        "the kernel has no module 'e100' (did you mean 'e1000'?), 'nowhere/*', 'qqqqqq'"
    )


@pytest.mark.parametrize(
    ("path", "name"),
    [("kernel/a/virtio-rng.ko", "virtio_rng"), ("b.ko.xz", "b"), ("8021q", "8021q")],
)
def test_a_module_has_the_name_that_the_kernel_gives_it(path: str, name: str) -> None:
    assert module_name(path) == name
