# The root file system, from the ramdisk or the network to NEW_ROOT, all in memory.
#
#   squashfs, erofs   stay compressed, read-only on a loop device; what changes goes to a tmpfs above
#   tar.xz, tar.zst   unpacked into a tmpfs
#   cpio              was unpacked by the kernel with the ramdisk
#
# Each tmpfs has a limit, so that what a node writes cannot take all of its memory. Needs memory.sh and
# fetch.sh.

NEW_ROOT=/sysroot
# A chain of links that is longer leads in a circle.
MAX_LINKS=8
# Hidden below the new root afterwards: the image, its mount, and the tmpfs for what changes.
LAYERS=/layers

# set_up_root: says why when it cannot.
set_up_root() {
    root_fits && _get_root_file || return
    mkdir -p "$NEW_ROOT"
    case $ROOT_FORMAT in
        squashfs | erofs) _mount_layers ;;
        tar.xz | tar.zst) _unpack ;;
        cpio) mount -o bind "$ROOT_FILE" "$NEW_ROOT" ;;
        *) false ;;
    esac || {
        failed "cannot set up the root: $ROOT_FORMAT of $IMAGE, $(_reason)"
        return 1
    }
    if ! _is_executable /sbin/init; then
        failed "the root of $IMAGE has no /sbin/init"
        return 1
    fi
    stage root "$ROOT_FORMAT, $(mib_of MemAvailable) of $(mib_of MemTotal) MiB left"
}

# _get_root_file: leaves its path in ROOT_FILE.
_get_root_file() {
    if [ -n "$ROOT_URL" ]; then
        # Without an address, start_network has said why.
        [ -e "$STATE/address" ] || return
        ROOT_FILE=$LAYERS/file/root
        mkdir -p "$LAYERS/file"
        # shellcheck disable=SC2153
        mount -t tmpfs -o "mode=0700,size=$((ROOT_SIZE + MIB))" root "$LAYERS/file"
        fetch_root "$ROOT_FILE"
    elif [ ! -e "$ROOT_FILE" ]; then
        failed "the ramdisk of $IMAGE has no ${ROOT_FILE:-bootnode.root_file or bootnode.root_url}"
        return 1
    elif [ -n "$ROOT_SHA256" ] && [ -f "$ROOT_FILE" ] && ! sum_is_right "$ROOT_FILE"; then
        failed "the SHA-256 of $ROOT_FILE in the ramdisk is wrong"
        return 1
    fi
}

_mount_layers() {
    modprobe -a loop overlay "$ROOT_FORMAT" 2>"$STATE/root.log"
    mkdir -p "$LAYERS/image" "$LAYERS/changes"
    mount -t "$ROOT_FORMAT" -o loop,ro "$ROOT_FILE" "$LAYERS/image" 2>>"$STATE/root.log" &&
        mount -t tmpfs -o "mode=0755,size=$(_half_the_memory_left)m" changes "$LAYERS/changes" &&
        mkdir "$LAYERS/changes/upper" "$LAYERS/changes/work" &&
        mount -t overlay \
            -o "lowerdir=$LAYERS/image,upperdir=$LAYERS/changes/upper,workdir=$LAYERS/changes/work" \
            "$ROOT_FORMAT" "$NEW_ROOT" 2>>"$STATE/root.log"
}

_unpack() {
    local size_mib=$((ROOT_RAM / MIB))
    size_mib=$((size_mib + ($(mib_of MemAvailable) - size_mib) / 2))
    mount -t tmpfs -o "mode=0755,size=${size_mib}m" root "$NEW_ROOT" || return
    # A pipe has the status of its last command only.
    {
        _decompress 2>"$STATE/root.log" || : >"$STATE/damaged"
    } | tar -x -C "$NEW_ROOT" 2>>"$STATE/root.log" && [ ! -e "$STATE/damaged" ] || return
    if [ -n "$ROOT_URL" ]; then
        umount "$LAYERS/file"
    else
        rm "$ROOT_FILE"
    fi
}

_decompress() {
    case $ROOT_FORMAT in
        tar.xz) xz -dc "$ROOT_FILE" ;;
        # Not one of busybox's: the ramdisk brings it.
        tar.zst) zstd -qdc "$ROOT_FILE" ;;
    esac
}

_half_the_memory_left() {
    echo $(($(mib_of MemAvailable) / 2))
}

_reason() {
    tail -n 1 "$STATE/root.log" 2>/dev/null | grep . || echo "see dmesg"
}

# _is_executable PATH: in the new root, where absolute links lead elsewhere than here.
_is_executable() {
    local path=$1 target links=0
    while [ "$links" -lt "$MAX_LINKS" ] && target=$(readlink "$NEW_ROOT$path"); do
        links=$((links + 1))
        case $target in
            /*) path=$target ;;
            *) path=${path%/*}/$target ;;
        esac
    done
    [ -x "$NEW_ROOT$path" ]
}
