# The way from the unpacked ramdisk to a node with a network, and to its root file system if it has
# one, told in order. Each step is a page of its own in this folder. A step that fails says so and the
# way goes on: a shell without a network is worth more than none.
#
# Ends with status 100 when process 1 is to hand over to /sysroot.
set -u

. /lib/bootnode/filesystems.sh
mount_kernel_filesystems || exit 1

. /lib/bootnode/settings.sh
. /lib/bootnode/stages.sh
. /lib/bootnode/modules.sh
. /lib/bootnode/network.sh
. /lib/bootnode/consoles.sh
. /lib/bootnode/memory.sh
. /lib/bootnode/fetch.sh
. /lib/bootnode/root.sh
. /lib/bootnode/node-files.sh
. /lib/bootnode/switch.sh

quiet_kernel_messages
# The firmware may have left the consoles in the middle of a line.
say ""
stage init "linux $(uname -r)"
load_listed_modules
load_network_modules
# What is here may be about the network, what is not needs it.
[ -n "$ROOT_FORMAT" ] || node_files_are_far || put_node_files /
start_network
[ -n "$ROOT_FORMAT" ] || ! node_files_are_far || put_node_files /
if [ -n "$ROOT_FORMAT" ] && set_up_root && leave_ramdisk; then
    exit 100
fi
write_inittab
