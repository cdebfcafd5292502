# The last stage, said by busybox init just before it starts the shells.

. /lib/bootnode/settings.sh
. /lib/bootnode/stages.sh

if [ -e "$STATE/address" ] && [ ! -e "$STATE/failed" ]; then
    read -r card address <"$STATE/address"
    stage up "$address on $card, image $IMAGE"
fi
