# Services, boot and power-off. COI_USER, COI_MTU
mkdir -p /etc/systemd/system.conf.d /etc/systemd/journald.conf.d /etc/docker
cat > /etc/systemd/system.conf.d/coi.conf <<'END'
[Manager]
DefaultTimeoutStopSec=10s
END
cat > /etc/systemd/journald.conf.d/coi.conf <<'END'
[Journal]
Storage=volatile
RuntimeMaxUse=16M
END

# Nothing waits for these, and each costs time at every start.
for unit in \
    systemd-networkd-wait-online.service NetworkManager-wait-online.service \
    apt-daily.timer apt-daily-upgrade.timer apt-daily.service apt-daily-upgrade.service \
    dpkg-db-backup.timer man-db.timer fstrim.timer motd-news.timer \
    e2scrub_all.timer e2scrub_reap.service systemd-pstore.service \
    systemd-journal-flush.service ldconfig.service systemd-hwdb-update.service \
    systemd-modules-load.service modprobe@.service \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service \
    sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount; do
    ln -sf /dev/null "/etc/systemd/system/$unit"
done

# Of all the host's devices that /sys shows, a container needs its links announced.
mkdir -p /etc/systemd/system/systemd-udev-trigger.service.d
cat > /etc/systemd/system/systemd-udev-trigger.service.d/coi.conf <<'END'
[Service]
ExecStart=
ExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=net
END

# Docker starts with the first use of its socket, not with the container.
if [ -e /lib/systemd/system/docker.socket ]; then
    getent group docker > /dev/null || groupadd --system docker
    usermod -aG docker "$COI_USER"
    for unit in docker.service containerd.service; do
        rm -f "/etc/systemd/system/multi-user.target.wants/$unit"
    done
    mkdir -p /etc/systemd/system/sockets.target.wants
    ln -sf /lib/systemd/system/docker.socket /etc/systemd/system/sockets.target.wants/docker.socket
    if [ "$COI_MTU" -gt 0 ] && [ "$COI_MTU" -lt 1500 ]; then
        printf '{"mtu": %s}\n' "$COI_MTU" > /etc/docker/daemon.json
    fi
fi

if [ -e /etc/locale.gen ]; then
    sed -i 's/^# *\(en_US.UTF-8 UTF-8\)/\1/' /etc/locale.gen
    locale-gen
fi
printf 'LANG=C.UTF-8\n' > /etc/default/locale
