# Who this node is, for the person at its console.

. /lib/bootnode/settings.sh

card='-' address='none yet (the node keeps asking)' mac=${BOOT_MAC:-unknown}
[ ! -e /run/bootnode/address ] || read -r card address </run/bootnode/address
[ ! -e /run/bootnode/mac ] || read -r mac </run/bootnode/mac

cat <<END

  bootnode failsafe: a shell that runs in memory. Nothing here touches the disks by itself.

    node     $NODE
    mac      $mac
    address  $address on $card
    server   ${SERVER:-none given}
    image    $IMAGE
    kernel   $(uname -r)

  reboot starts the node anew; dmesg has the kernel's messages.

END
