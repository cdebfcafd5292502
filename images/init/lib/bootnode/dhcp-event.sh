#!/bin/busybox sh
# udhcpc runs this for each change of the lease. Its values come in the environment: interface ip mask
# router dns domain search staticroutes mtu hostname serverid.
# shellcheck disable=SC2154

. /lib/bootnode/settings.sh
. /lib/bootnode/stages.sh

configure() {
    # A renewal of the same address must not cut the connections that use it.
    ip -4 addr show dev "$interface" | grep -q "inet $ip/$mask " || ip -4 addr flush dev "$interface"
    ip addr replace "$ip/$mask" broadcast + dev "$interface"
    [ -z "${mtu:-}" ] || ip link set dev "$interface" mtu "$mtu"
    set_routes
    set_names
    mac=$(cat "/sys/class/net/$interface/address")
    echo "$interface $ip/$mask" >"$STATE/address"
    echo "$mac" >"$STATE/mac"
    deliver_reports
}

set_routes() {
    if [ -n "${staticroutes:-}" ]; then
        # RFC 3442: where classless routes are given, the router option is ignored.
        # shellcheck disable=SC2086
        set -- $staticroutes
        while [ $# -ge 2 ]; do
            add_route "$1" "$2"
            shift 2
        done
    elif [ -n "${router:-}" ]; then
        add_route default "${router%% *}"
    fi
}

# add_route DESTINATION GATEWAY: 0.0.0.0 stands for a destination on the wire itself.
add_route() {
    if [ "$2" = 0.0.0.0 ]; then
        ip route replace "$1" dev "$interface"
    else
        # A gateway outside the subnet is legal, and usual with /32 addresses.
        ip route replace "$1" via "$2" dev "$interface" onlink
    fi
}

set_names() {
    [ "$NODE" != unnamed ] || hostname "${hostname:-unnamed}"
    : >/etc/resolv.conf
    [ -z "${search:-${domain:-}}" ] || echo "search ${search:-$domain}" >>/etc/resolv.conf
    for server in ${dns:-}; do
        echo "nameserver $server" >>/etc/resolv.conf
    done
}

case $1 in
    deconfig) ip -4 addr flush dev "$interface" ;;
    bound | renew) configure ;;
    nak) say "init: the DHCP server refused our address on $interface: ${message:-no reason given}" ;;
esac
