# A shell on each console that exists: where the kernel writes, the screen, and the first serial port.
# Needs consoles of stages.sh.

# An inittab line with a device gives the shell a controlling terminal, so that Ctrl-C works.
write_inittab() {
    {
        echo "::wait:/bin/busybox sh /lib/bootnode/up.sh"
        _terminals | while read -r name; do
            echo "$name::respawn:-/bin/sh"
        done
        echo "::respawn:/bin/busybox sh /lib/bootnode/devices.sh"
        echo "::ctrlaltdel:/bin/busybox reboot"
        echo "::shutdown:/bin/busybox umount -a -r"
    } >/etc/inittab.new
    mv /etc/inittab.new /etc/inittab
}

_terminals() {
    {
        # tty0 is whichever screen is in front; a shell belongs to one of them.
        consoles | sed -e 's,^/dev/,,' -e 's,^tty0$,tty1,'
        [ ! -c /dev/tty1 ] || echo tty1
        # /dev/ttyS0 is always there; whether a port is behind it, the driver knows.
        grep -q '^0: uart:[^u]' /proc/tty/driver/serial 2>/dev/null && echo ttyS0
    } | sort -u
}
