# Everything but the network: loads the modules of all devices there are, then of those that come later
# (disks behind a slow controller, a keyboard plugged in). busybox init runs this again if it ends.

. /lib/bootnode/modules.sh

load_all_modules &
exec uevent sh /lib/bootnode/hotplug.sh
