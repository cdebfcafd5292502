# The files that are this node's alone: they came in a ramdisk of their own, in NODE_FILES_FOLDER, and
# are put over the root, or over the ramdisk where that is all there is. Needs settings.sh and stages.sh.

NODE_FILES_FOLDER=/node-files

# put_node_files ROOT: says why when it cannot. A node that lacks its files is not the node it should be.
put_node_files() {
    [ -n "$NODE_FILES" ] || return 0
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
