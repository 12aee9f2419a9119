# What an image must not carry: caches, the build's own settings, identities.
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old
rm -rf /root/.npm /root/.cache /tmp/* /tmp/.[!.]* /var/tmp/* /var/log/journal/* /run/log/journal/*
find /var/log -type f -exec truncate -s 0 {} +
rm -f /etc/dpkg/dpkg.cfg.d/coi-build /usr/sbin/policy-rc.d
rm -f /etc/ssh/ssh_host_*key* /var/lib/systemd/random-seed /var/lib/dhcp/*.leases /var/lib/dbus/machine-id
: > /etc/machine-id # empty: each instance makes its own at its first start
sync
