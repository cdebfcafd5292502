# Whether the root file system fits the memory of this node, worked out before anything is fetched or
# unpacked: the out-of-memory killer says nothing that helps. Needs settings.sh and stages.sh.

MIB=1048576
# For the processes and files of a small system, beside its root.
SYSTEM_MIB=96

root_fits() {
    local available total needed unpacking
    total=$(mib_of MemTotal)
    # The kernel tells only its log when a ramdisk does not fit, and starts what there is of it.
    unpacking=$(dmesg | sed -n 's/.*Initramfs unpacking failed: //p' | head -n 1)
    if [ -n "$unpacking" ]; then
        failed "the ramdisk did not unpack ($unpacking): it may fill half of the $total MiB here"
        # What there is of it is of no use, and fills the file system that the shell needs.
        rm -rf "$ROOT_FILE"
        return 1
    fi
    available=$(mib_of MemAvailable)
    needed=$(($(_bytes_to_come) / MIB + SYSTEM_MIB))
    if [ "$needed" -gt "$available" ]; then
        # As the whole machine's, since that is what can be changed.
        failed "needs $((total - available + needed)) MiB, this node has $total MiB"
        return 1
    fi
}

# mib_of FIELD: a line of /proc/meminfo, in MiB.
mib_of() {
    awk -v field="$1:" '$1 == field { print int($2 / 1024) }' /proc/meminfo
}

# What came with the ramdisk is in memory already.
_bytes_to_come() {
    case $ROOT_FORMAT/${ROOT_URL:+fetched} in
        # An archive and what is in it are there at the same time.
        tar.*/fetched) echo $((ROOT_SIZE + ROOT_RAM)) ;;
        tar.*) echo "$ROOT_RAM" ;;
        */fetched) echo "$ROOT_SIZE" ;;
        *) echo 0 ;;
    esac
}
