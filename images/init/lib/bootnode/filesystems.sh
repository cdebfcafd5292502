# The file systems that the kernel provides, where every Linux program looks for them.

mount_kernel_filesystems() {
    /bin/busybox mount -t proc -o nosuid,nodev,noexec proc /proc &&
        mount -t sysfs -o nosuid,nodev,noexec sysfs /sys &&
        mount -t devtmpfs -o nosuid,mode=0755 devtmpfs /dev &&
        mkdir -p /dev/pts &&
        mount -t devpts -o nosuid,noexec,gid=5,mode=0620 devpts /dev/pts &&
        mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs /run &&
        mkdir -p /run/bootnode &&
        /bin/busybox --install -s
}

quiet_kernel_messages() {
    # A kernel message in the middle of a line spoils it for whoever reads the console by program,
    # and the shell for whoever types. What is critical still comes through; dmesg has the rest. Plain
    # errors do not: busybox offers each compressed module to the kernel as it is before it unpacks
    # it, and the kernel calls that an error.
    read -r KERNEL_MESSAGES _ </proc/sys/kernel/printk
    dmesg -n 3
}

# restore_kernel_messages: as the kernel command line has them.
restore_kernel_messages() {
    echo "$KERNEL_MESSAGES" >/proc/sys/kernel/printk
}
