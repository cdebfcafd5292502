# The root file system by HTTP, straight to the place in memory where it stays.
#
# A server may be busy with a whole rack: what does not come is asked for again, from where it ended.
# Needs settings.sh and stages.sh.

# Tries in a row that brought not one byte more.
FETCH_TRIES=8
FETCH_PAUSE_S=2
# A connection that brings nothing for so long is dead.
FETCH_STALL_S=15
FETCH_PROGRESS_S=2
SUM_TRIES=3

# fetch_root FILE: says why when it cannot.
fetch_root() {
    local round=1
    while _download "$1"; do
        sum_is_right "$1" && return
        if [ "$round" -eq "$SUM_TRIES" ]; then
            failed "the SHA-256 of $ROOT_URL is wrong, $SUM_TRIES times: build or publish it again"
            return 1
        fi
        say "init: the SHA-256 of $ROOT_URL is wrong, fetching it again"
        rm -f "$1"
        round=$((round + 1))
    done
    failed "cannot fetch $ROOT_URL: $(tail -n 1 "$STATE/fetch.log")"
    return 1
}

# sum_is_right FILE
sum_is_right() {
    echo "$ROOT_SHA256  $1" | sha256sum -c -s
}

_download() {
    local try=0 before
    while [ "$(_bytes_in "$1")" -lt "$ROOT_SIZE" ]; do
        before=$(_bytes_in "$1")
        _fetch_on "$1" && [ "$(_bytes_in "$1")" -ge "$ROOT_SIZE" ] && return
        [ "$(_bytes_in "$1")" -eq "$before" ] || try=0
        try=$((try + 1))
        [ "$try" -lt "$FETCH_TRIES" ] || return 1
        say "init: fetching $ROOT_URL failed ($(tail -n 1 "$STATE/fetch.log")), trying again"
        sleep "$FETCH_PAUSE_S"
    done
}

_bytes_in() {
    stat -c %s "$1" 2>/dev/null || echo 0
}

# _fetch_on FILE: one connection. wget has no time limit of its own: Debian 12's busybox 1.35 crashes
# on -T.
_fetch_on() {
    local wget watch status
    echo "the server sent too little" >"$STATE/fetch.log"
    wget -q -c -O "$1" "$ROOT_URL" 2>>"$STATE/fetch.log" &
    wget=$!
    _watch "$wget" "$1" &
    watch=$!
    wait "$wget"
    status=$?
    kill "$watch" 2>/dev/null
    return "$status"
}

# _watch PID FILE: says how far it is, and ends it when it stands still.
_watch() {
    local seconds=0 still=0 before=0 now
    while [ "$still" -lt "$FETCH_STALL_S" ]; do
        sleep 1
        seconds=$((seconds + 1)) still=$((still + 1))
        now=$(_bytes_in "$2")
        [ "$now" -eq "$before" ] || still=0
        before=$now
        [ "$((seconds % FETCH_PROGRESS_S))" -ne 0 ] ||
            say "init: fetched $((now / MIB)) of $((ROOT_SIZE / MIB)) MiB"
    done
    echo "nothing came for $FETCH_STALL_S s" >>"$STATE/fetch.log"
    kill "$1"
}
