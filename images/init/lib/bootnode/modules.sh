# Kernel modules for the devices this machine has, by the aliases that the devices name.
#
# The network comes first: a disk controller may take many seconds to find its disks, and nothing
# on the way to the network needs them. The rest follows when the shells are there (devices.sh).

LISTED_MODULES=/etc/bootnode/modules
# A device may appear behind one whose driver was just loaded (PCI, virtio, network): look again.
MODULE_ROUNDS=5
# PCI class 02, virtio network cards, Hyper-V's and Xen's buses.
NETWORK_ALIASES='^pci:.*bc02|^virtio:d00000001|^acpi:VMBUS|^vmbus:|^xen:'

load_listed_modules() {
    if [ -s "$LISTED_MODULES" ]; then
        xargs modprobe -aq <"$LISTED_MODULES"
    fi
}

load_network_modules() {
    _load_by_alias "$NETWORK_ALIASES"
}

load_all_modules() {
    _load_by_alias .
}

# _load_by_alias REGEX: one modprobe for all new aliases of a round, since each reads the whole index.
_load_by_alias() {
    local round=0 tried fresh
    tried=$(mktemp /run/bootnode/tried.XXXXXX)
    fresh=$tried.fresh
    # busybox grep takes an empty pattern file to match every line.
    echo "(tried)" >"$tried"
    while [ "$round" -lt "$MODULE_ROUNDS" ]; do
        cat /sys/bus/*/devices/*/modalias 2>/dev/null |
            grep -E "$1" | sort -u | grep -vxFf "$tried" >"$fresh"
        [ -s "$fresh" ] || break
        cat "$fresh" >>"$tried"
        tr '\n' '\0' <"$fresh" | xargs -0 modprobe -abq 2>/dev/null
        round=$((round + 1))
    done
    rm -f "$tried" "$fresh"
}
