# The files that are this node's alone: they came in a ramdisk of their own, in NODE_FILES_FOLDER, and
# are put over the root, or over the ramdisk where that is all there is. To a unified kernel image no
# ramdisk could be added: then they come by HTTP. Needs settings.sh, stages.sh and fetch.sh.

NODE_FILES_FOLDER=/node-files

# put_node_files ROOT: says why when it cannot. A node that lacks its files is not the node it should be.
put_node_files() {
    [ -n "$NODE_FILES" ] || return 0
    if node_files_are_far && ! _fetch_node_files 2>"$STATE/node-files.log"; then
        failed "cannot fetch the files of $NODE: $(tail -n 1 "$STATE/node-files.log")"
        return 1
    fi
    if [ ! -d "$NODE_FILES_FOLDER" ]; then
        failed "the ramdisk with the files of $NODE did not arrive"
        return 1
    fi
    if [ "$1" = / ]; then
        _put_files /
    else
        _put_files_inside "$1"
    fi 2>"$STATE/node-files.log" || {
        failed "cannot put a file of $NODE: $(tail -n 1 "$STATE/node-files.log")"
        return 1
    }
    rm -rf "$NODE_FILES_FOLDER"
}

# node_files_are_far: whether they have to be fetched.
node_files_are_far() {
    case $NODE_FILES in
        http://*) return 0 ;;
        *) return 1 ;;
    esac
}

# Small as they are, each try begins anew.
_fetch_node_files() {
    local try=0
    until timeout "$FETCH_STALL_S" wget -q -O "$STATE/node.cpio" "$NODE_FILES"; do
        try=$((try + 1))
        [ "$try" -lt "$FETCH_TRIES" ] || return 1
        sleep "$FETCH_PAUSE_S"
    done
    (cd / && cpio -i -d -m -u) <"$STATE/node.cpio" && rm -f "$STATE/node.cpio"
}

# _put_files_inside ROOT: from inside, since links on the way to a file mean what they mean there. The
# root need not have programs that could do it, so it is lent ours: in the place of /proc, where no
# file of a node can be meant to go. What is put below /run is moved along with it.
_put_files_inside() {
    mkdir -p "$1/proc" "$1/run" &&
        mount -o bind / "$1/proc" &&
        mount -o bind /run "$1/run" &&
        chroot "$1" /proc/bin/busybox sh -c '. /proc/lib/bootnode/node-files.sh; _put_files /proc/' &&
        umount "$1/run" "$1/proc"
}

# _put_files RAMDISK: RAMDISK is where the ramdisk is seen from here, with a slash at its end.
_put_files() {
    local box="$1bin/busybox"
    umask 022
    cd "$1${NODE_FILES_FOLDER#/}" || return
    # A pipe has the status of its last command.
    "$box" find . ! -type d | while IFS= read -r path; do
        path=${path#.}
        # cp would write through a link, and into a folder.
        "$box" mkdir -p "${path%/*}/" && "$box" rm -f "$path" &&
            "$box" cp -a ".$path" "$path" || exit
    done
}
