# What the boot script told this node on the kernel command line.
#
#   bootnode.node=NAME          its name in the node table
#   bootnode.server=URL         where it reports its stages
#   bootnode.image=NAME/VERSION what it runs
#   bootnode.node_files=yes     a ramdisk with files of its own follows the image's; or a URL of it
#   BOOTIF=01-aa-bb-cc-dd-ee-ff the network card it was booted from
#
# and, when the image is more than this ramdisk, of its root file system:
#
#   bootnode.root=FORMAT        squashfs, erofs, cpio, tar.xz or tar.zst
#   bootnode.root_file=PATH     where it is in the ramdisk; for cpio the folder that is its top
#   bootnode.root_url=URL       or where to fetch it, with root_size and root_sha256
#   bootnode.root_size=BYTES    as a file
#   bootnode.root_sha256=HEX    of that file, also of one in the ramdisk if it is given
#   bootnode.root_ram=BYTES     memory that it takes where it stays
#
# Sourced by the scripts that need to know.
# shellcheck disable=SC2034

NODE=unnamed
SERVER=
IMAGE=unknown
NODE_FILES=
BOOT_MAC=
ROOT_FORMAT=
ROOT_FILE=
ROOT_URL=
ROOT_SIZE=0
ROOT_SHA256=
ROOT_RAM=0

read_settings() {
    local line word
    read -r line </proc/cmdline
    set -f
    for word in $line; do
        case $word in
            bootnode.node=?*) NODE=${word#*=} ;;
            bootnode.server=?*) SERVER=${word#*=} ;;
            bootnode.image=?*) IMAGE=${word#*=} ;;
            bootnode.node_files=?*) NODE_FILES=${word#*=} ;;
            bootnode.root=?*) ROOT_FORMAT=${word#*=} ;;
            bootnode.root_file=?*) ROOT_FILE=${word#*=} ;;
            bootnode.root_url=?*) ROOT_URL=${word#*=} ;;
            bootnode.root_size=?*) ROOT_SIZE=${word#*=} ;;
            bootnode.root_sha256=?*) ROOT_SHA256=${word#*=} ;;
            bootnode.root_ram=?*) ROOT_RAM=${word#*=} ;;
            BOOTIF=01-??-??-??-??-??-??) BOOT_MAC=$(echo "${word#BOOTIF=01-}" | tr A-F- a-f:) ;;
        esac
    done
    set +f
}
read_settings
