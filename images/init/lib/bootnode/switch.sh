# Handing over to the new root: what it is told of this node, and what it must not find running.
#
# The network card keeps its name, address and link, so that nothing of the way up is done twice.
# Needs root.sh, network.sh and node-files.sh.

REPORTS_WAIT_S=5
# Names the connection of the boot card to NetworkManager: any fixed one will do.
CONNECTION_UUID=b007b007-0000-4000-8000-000000000002

# leave_ramdisk: afterwards only process 1 is left to go. Says why when it cannot.
leave_ramdisk() {
    _name_the_node
    _leave_identity
    _leave_network
    # What was made for this node goes before what is made for any.
    put_node_files "$NEW_ROOT" || return
    stage switch "/sbin/init of $IMAGE"
    _wait_for_reports
    _end_all_processes
    restore_kernel_messages
    _move_kernel_filesystems
    # What is left of the ramdisk would stay in memory for ever.
    # shellcheck disable=SC2114
    rm -rf /lib /etc
}

_name_the_node() {
    local name
    name=$(hostname)
    [ "$name" = unnamed ] || echo "$name" >"$NEW_ROOT/etc/hostname"
    # Empty, so that systemd makes one: two nodes with one image must not be one machine. A file of the
    # node's own may bring one that is the same at each boot.
    : >"$NEW_ROOT/etc/machine-id"
}

# _leave_identity: for the image's own report of `up`. Shells and systemd both read this form.
_leave_identity() {
    {
        echo "NODE=$NODE"
        echo "SERVER=$SERVER"
        echo "IMAGE=$IMAGE"
        echo "ROOT_FORMAT=$ROOT_FORMAT"
        echo "MAC=$(_boot_mac)"
    } >"$STATE/identity"
}

_boot_mac() {
    cat "$STATE/mac" 2>/dev/null || echo "$BOOT_MAC"
}

# _leave_network: for systemd's udev, and for networkd or NetworkManager, whichever the image has.
_leave_network() {
    local mac
    mac=$(_boot_mac)
    [ -n "$mac" ] || return
    mkdir -p /run/systemd/network
    # A card that is up cannot be renamed (Linux below 6.3); its other names stay good.
    cat >/run/systemd/network/10-bootnode.link <<END
[Match]
MACAddress=$mac
[Link]
NamePolicy=keep
AlternativeNamesPolicy=database onboard slot path
MACAddressPolicy=none
END
    # The client identifier is udhcpc's, so the lease is the same one. It is never given back: files
    # may still be read when networkd ends.
    cat >/run/systemd/network/10-bootnode.network <<END
[Match]
MACAddress=$mac
[Network]
DHCP=ipv4
KeepConfiguration=yes
[DHCPv4]
ClientIdentifier=mac
SendRelease=no
UseDomains=yes
UseHostname=no
END
    if _is_executable /usr/sbin/NetworkManager; then
        _leave_network_to_networkmanager "$mac"
    fi
    # A link is the image's own way to say who looks after the file.
    [ -L "$NEW_ROOT/etc/resolv.conf" ] || [ ! -s /etc/resolv.conf ] ||
        cp /etc/resolv.conf "$NEW_ROOT/etc/resolv.conf"
}

# _leave_network_to_networkmanager MAC: a connection, and that the card has it already, as
# NetworkManager itself leaves it in a ramdisk or for its next start. It then asks for the lease again
# and keeps the address meanwhile. Without the second file it would not touch a card that is up, and
# nobody would renew the lease.
_leave_network_to_networkmanager() {
    local card connection=/run/NetworkManager/system-connections/bootnode.nmconnection
    mkdir -p /run/NetworkManager/system-connections /run/NetworkManager/devices
    cat >"$connection" <<END
[connection]
id=bootnode
uuid=$CONNECTION_UUID
type=ethernet
autoconnect-priority=1
[ethernet]
mac-address=$1
[ipv4]
method=auto
dhcp-client-id=mac
# For ever.
dhcp-timeout=2147483647
[ipv6]
method=link-local
END
    # It ignores files that others may read.
    chmod 600 "$connection"
    [ -e "$STATE/address" ] || return
    read -r card _ <"$STATE/address"
    printf '[device]\nmanaged=true\nconnection-uuid=%s\n' "$CONNECTION_UUID" \
        >"/run/NetworkManager/devices/$(cat "/sys/class/net/$card/ifindex")"
}

_wait_for_reports() {
    local tenths=0
    [ -n "$SERVER" ] && [ -e "$STATE/mac" ] || return
    while _reports_wait && [ "$tenths" -lt "$((REPORTS_WAIT_S * 10))" ]; do
        sleep 0.1
        tenths=$((tenths + 1))
    done
}

# A udhcpc that is ended leaves the address to the card.
_end_all_processes() {
    local entry pid
    for entry in /proc/[0-9]*; do
        pid=${entry#/proc/}
        # The kernel's own threads have no program.
        [ "$pid" -eq 1 ] || [ "$pid" -eq $$ ] || [ ! -e "$entry/exe" ] || kill "$pid" 2>/dev/null
    done
}

_move_kernel_filesystems() {
    local name
    for name in dev sys run proc; do
        mkdir -p "$NEW_ROOT/$name"
        mount -o move "/$name" "$NEW_ROOT/$name"
    done
}
