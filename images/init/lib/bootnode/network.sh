# The network card that this node was booted from, and its address by DHCP.
#
# BOOTIF names the card by its MAC. Without it, or when no card has that MAC, every card is tried and
# the first with a link and a lease wins. Needs settings.sh, stages.sh and modules.sh.

CARD_WAIT_S=10
LINK_WAIT_S=10
# The first round gives up after DISCOVERS times DISCOVER_PAUSE_S, so that a shell comes; the later
# ones go on for ever in the background. Pauses are short: the server is near, and a DISCOVER is small.
DISCOVERS=8
DISCOVER_PAUSE_S=2
ROUND_PAUSE_S=10

start_network() {
    ip link set lo up
    hostname "$NODE"
    _wait_for_cards
    _try_cards && return
    failed "$NETWORK_PROBLEM"
    _try_cards_for_ever &
}

# cards: the names of all network cards that are devices, not lo or bridges.
cards() {
    local device
    for device in /sys/class/net/*/device; do
        [ -e "$device" ] && basename "${device%/device}"
    done
}

mac_of() {
    cat "/sys/class/net/$1/address"
}

# boot_cards: those to try, the right one alone if it is there.
boot_cards() {
    local card
    for card in $(cards); do
        if [ "$(mac_of "$card")" = "$BOOT_MAC" ]; then
            echo "$card"
            return
        fi
    done
    cards
}

_boot_card_is_there() {
    local card
    for card in $(cards); do
        [ -z "$BOOT_MAC" ] || [ "$(mac_of "$card")" = "$BOOT_MAC" ] && return 0
    done
    return 1
}

# Drivers may find their cards some time after they were loaded, and a USB card needs other modules.
_wait_for_cards() {
    local tenths=0
    _boot_card_is_there && return
    load_all_modules
    while ! _boot_card_is_there && [ "$tenths" -lt "$((CARD_WAIT_S * 10))" ]; do
        sleep 0.1
        tenths=$((tenths + 1))
    done
}

# _try_cards: one round over the cards; leaves the reason in NETWORK_PROBLEM when none has an address.
_try_cards() {
    local card candidates linked
    candidates=$(boot_cards)
    if [ -z "$candidates" ]; then
        NETWORK_PROBLEM="no network card found: its driver may be missing from this image"
        return 1
    fi
    for card in $candidates; do
        ip link set dev "$card" up
    done
    _wait_for_link "$candidates"
    linked=$(_with_link "$candidates")
    if [ -z "$linked" ]; then
        NETWORK_PROBLEM="no link on $(_described "$candidates"): look at the cable and the switch port"
        return 1
    fi
    for card in $linked; do
        _get_address "$card" && return
    done
    NETWORK_PROBLEM="no DHCP server answered on $(_described "$linked")"
    return 1
}

_try_cards_for_ever() {
    say "init: $NETWORK_PROBLEM; trying again for ever"
    until _try_cards; do
        sleep "$ROUND_PAUSE_S"
    done
    rm -f "$STATE/failed"
    sh /lib/bootnode/up.sh
}

_wait_for_link() {
    local tenths=0
    while [ -z "$(_with_link "$1")" ] && [ "$tenths" -lt "$((LINK_WAIT_S * 10))" ]; do
        sleep 0.1
        tenths=$((tenths + 1))
    done
}

_with_link() {
    local card
    for card in $1; do
        [ "$(cat "/sys/class/net/$card/carrier" 2>/dev/null)" = 1 ] && echo "$card"
    done
}

_described() {
    local card text=
    for card in $1; do
        text="$text${text:+, }$card ($(mac_of "$card"))"
    done
    echo "$text"
}

# _get_address CARD: udhcpc stays behind to keep the lease; without -R it never gives the address back.
_get_address() {
    udhcpc -n -t "$DISCOVERS" -T "$DISCOVER_PAUSE_S" -A "$ROUND_PAUSE_S" \
        -i "$1" -s /lib/bootnode/dhcp-event.sh -p "/run/udhcpc.$1.pid" \
        -O mtu -O search -O staticroutes >"$STATE/dhcp.log" 2>&1 && [ -e "$STATE/address" ]
}
