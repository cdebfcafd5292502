# uevent runs this for each event of the kernel, which is in the environment.

if [ "${ACTION:-}" = add ] && [ -n "${MODALIAS:-}" ]; then
    modprobe -bq "$MODALIAS" 2>/dev/null
fi
