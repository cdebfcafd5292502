# Stages: how far this node is, said on every console and posted to the server.
#
# Needs NODE and SERVER of settings.sh. Reports wait in a file until there is an address, and are then
# posted in order by one background process, so that a slow or silent server never holds the boot up.
# Each is posted with its age, since the first stages come long before the first address.

STATE=/run/bootnode
REPORT_TRIES=5
REPORT_TIMEOUT_S=3
REPORT_PAUSE_S=1

# consoles: the devices that the kernel writes its messages to, one a line.
consoles() {
    local names name
    read -r names 2>/dev/null </sys/class/tty/console/active || names=console
    for name in $names; do
        echo "/dev/$name"
    done
}

# say TEXT: a line for whoever watches any of the consoles.
say() {
    local device
    for device in $(consoles); do
        echo "$1" 2>/dev/null >"$device"
    done
}

# stage STAGE [DETAIL]
stage() {
    local report="$1 $NODE${2:+ $2}" uptime
    say "bootnode: $report"
    read -r uptime _ </proc/uptime
    echo "$uptime $report" >>"$STATE/reports"
    deliver_reports
}

# failed REASON: the stage that says why there will be no `up` for now.
failed() {
    : >"$STATE/failed"
    stage failed "$1"
}

# deliver_reports: post what waits, in the background, once there is an address to post from.
deliver_reports() {
    if [ -n "$SERVER" ] && [ -e "$STATE/mac" ]; then
        _deliver_while_any &
    fi
}

# One process delivers at a time, so the order stays. It looks once more after it let the lock go:
# a report that came meanwhile found the lock held and left the work to it.
_deliver_while_any() {
    while _reports_wait && mkdir "$STATE/delivering" 2>/dev/null; do
        _deliver
        rmdir "$STATE/delivering"
    done
}

_reports_wait() {
    [ "$(_delivered)" -lt "$(wc -l <"$STATE/reports")" ]
}

_delivered() {
    cat "$STATE/delivered" 2>/dev/null || echo 0
}

_deliver() {
    local count uptime report
    count=$(_delivered)
    tail -n "+$((count + 1))" "$STATE/reports" | while read -r uptime report; do
        _post "$uptime" "$report" || say "init: cannot report '$report' to $SERVER"
        count=$((count + 1))
        echo "$count" >"$STATE/delivered"
    done
}

# _post UPTIME REPORT: a report, and how many seconds ago it was made.
_post() {
    local mac age try=0
    read -r mac <"$STATE/mac"
    while [ "$try" -lt "$REPORT_TRIES" ]; do
        age=$(awk -v made="$1" '{ print $1 - made }' /proc/uptime)
        # Not wget -T: Debian 12's busybox 1.35 crashes on it.
        timeout "$REPORT_TIMEOUT_S" wget -q -O /dev/null --header "Bootnode-Age: $age" --post-data "$2" \
            "$SERVER/report/$(echo "$mac" | tr : -)" 2>/dev/null && return 0
        try=$((try + 1))
        sleep "$REPORT_PAUSE_S"
    done
    return 1
}
