# What the boot script told this node on the kernel command line.
#
#   bootnode.node=NAME          its name in the node table
#   bootnode.server=URL         where it reports its stages
#   bootnode.image=NAME/VERSION what it runs
#   BOOTIF=01-aa-bb-cc-dd-ee-ff the network card it was booted from
#
# Sourced by the scripts that need to know.
# shellcheck disable=SC2034

NODE=unnamed
SERVER=
IMAGE=unknown
BOOT_MAC=

read_settings() {
    local line word
    read -r line </proc/cmdline
    set -f
    for word in $line; do
        case $word in
            bootnode.node=?*) NODE=${word#*=} ;;
            bootnode.server=?*) SERVER=${word#*=} ;;
            bootnode.image=?*) IMAGE=${word#*=} ;;
            BOOTIF=01-??-??-??-??-??-??) BOOT_MAC=$(echo "${word#BOOTIF=01-}" | tr A-F- a-f:) ;;
        esac
    done
    set +f
}
read_settings
