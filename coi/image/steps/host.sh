# Certificates, apt, npm and pip settings of the host.
# COI_CERTIFICATES, COI_APT, COI_NPM_REGISTRY, COI_PIP_INDEX, COI_MIRROR, COI_DISTRIBUTION
mkdir -p /etc/coi /etc/apt/apt.conf.d /etc/dpkg/dpkg.cfg.d
: > /etc/coi/environment

# During the build alone: no fsync per file, no service started.
echo force-unsafe-io > /etc/dpkg/dpkg.cfg.d/coi-build
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d

cat > /etc/apt/apt.conf.d/80coi <<'END'
Acquire::Languages "none";
Acquire::Retries "3";
END
if [ -n "$COI_APT" ]; then
    printf '%s\n' "$COI_APT" > /etc/apt/apt.conf.d/81coi-host
fi
if [ -n "$COI_MIRROR" ] && [ "$COI_DISTRIBUTION" = ubuntu ]; then
    for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.sources; do
        [ -f "$list" ] || continue
        sed -i -E "s#https?://(archive|security|ports)\.ubuntu\.com/ubuntu(-ports)?/?#$COI_MIRROR#g" "$list"
    done
fi

if [ -n "$COI_CERTIFICATES" ]; then
    mkdir -p /usr/local/share/ca-certificates
    printf '%s\n' "$COI_CERTIFICATES" | awk '
        /-----BEGIN CERTIFICATE-----/ { n++; file = sprintf("/usr/local/share/ca-certificates/coi-host-%02d.crt", n) }
        file { print > file }
        /-----END CERTIFICATE-----/ { close(file); file = "" }'
    if command -v update-ca-certificates > /dev/null; then
        update-ca-certificates
    else # its own installation does the same
        apt-get update -q
        apt-get install -qy --no-install-recommends ca-certificates
    fi
    bundle=/etc/ssl/certs/ca-certificates.crt
    for name in NODE_EXTRA_CA_CERTS PIP_CERT SSL_CERT_FILE REQUESTS_CA_BUNDLE CURL_CA_BUNDLE GIT_SSL_CAINFO; do
        echo "$name=$bundle" >> /etc/coi/environment
    done
fi

if [ -n "$COI_NPM_REGISTRY" ]; then
    mkdir -p /usr/local/etc
    echo "registry=$COI_NPM_REGISTRY/" > /usr/local/etc/npmrc
fi
if [ -n "$COI_PIP_INDEX" ]; then
    printf '[global]\nindex-url = %s\n' "$COI_PIP_INDEX" > /etc/pip.conf
fi

# The same variables for logins (pam_env) and for login shells.
touch /etc/environment
cat /etc/coi/environment >> /etc/environment
cat > /etc/profile.d/coi.sh <<'END'
if [ -r /etc/coi/environment ]; then
    while IFS= read -r coi_line; do
        case $coi_line in [A-Za-z_]*=*) export "$coi_line" ;; esac
    done < /etc/coi/environment
    unset coi_line
fi
END
