# The last stage, said by busybox init just before it starts the shells.

. /lib/bootnode/settings.sh
. /lib/bootnode/stages.sh

if [ -n "$ROOT_FORMAT" ]; then
    # This shell is not what the node was meant to run. What went wrong has been said.
    say "init: this is the failsafe shell instead of $IMAGE; 'reboot' tries again"
elif [ -e "$STATE/address" ] && [ ! -e "$STATE/failed" ]; then
    read -r card address <"$STATE/address"
    stage up "$address on $card, image $IMAGE"
fi
