# The user of the sessions. COI_USER, COI_UID
holder=$(getent passwd "$COI_UID" | cut -d: -f1)
if [ -n "$holder" ] && [ "$holder" != "$COI_USER" ]; then
    if [ "$COI_UID" -lt 1000 ] && [ "$COI_UID" -lt 500 ]; then
        echo "the uid $COI_UID belongs to the system user $holder of this base" >&2
        exit 1
    fi
    userdel -r "$holder" 2> /dev/null || userdel "$holder"
fi
# A group of the base that has the number moves to a free one.
other=$(getent group "$COI_UID" | cut -d: -f1)
if [ -n "$other" ] && [ "$other" != "$COI_USER" ]; then
    free=61000
    while getent group "$free" > /dev/null; do free=$((free + 1)); done
    groupmod -g "$free" "$other"
fi
getent group "$COI_USER" > /dev/null || groupadd -g "$COI_UID" "$COI_USER"
if getent passwd "$COI_USER" > /dev/null; then
    usermod -u "$COI_UID" -g "$COI_UID" -s /bin/bash "$COI_USER"
else
    useradd -m -d "/home/$COI_USER" -u "$COI_UID" -g "$COI_UID" -s /bin/bash -c 'coi session' "$COI_USER"
fi
chmod 755 "/home/$COI_USER"
mkdir -p /etc/sudoers.d /workspace
printf '%s ALL=(ALL) NOPASSWD: ALL\n' "$COI_USER" > /etc/sudoers.d/coi
chmod 440 /etc/sudoers.d/coi
chown "$COI_UID:$COI_UID" /workspace
