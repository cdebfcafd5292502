# The way from the unpacked ramdisk to a node with a network, told in order. Each step is a page of
# its own in this folder. A step that fails says so and the way goes on: a shell without a network is
# worth more than none.
set -u

. /lib/bootnode/filesystems.sh
mount_kernel_filesystems || exit 1

. /lib/bootnode/settings.sh
. /lib/bootnode/stages.sh
. /lib/bootnode/modules.sh
. /lib/bootnode/network.sh
. /lib/bootnode/consoles.sh

quiet_kernel_messages
# The firmware may have left the consoles in the middle of a line.
say ""
stage init "linux $(uname -r)"
load_listed_modules
load_network_modules
start_network
write_inittab
