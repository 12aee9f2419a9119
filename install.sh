#!/usr/bin/env bash
# Prepares a Linux host for coi: Incus and its daemon, a storage pool, a bridge, the group, coi, the image.
# It may be run again at any time: finished steps are skipped, what exists is never changed.
#   ./install.sh --help
# Everything is a function and main is called on the last line, so that a download cut short runs nothing.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: install.sh [--yes] [--dry-run] [--no-image] [--user NAME]
       install.sh --start

Prepares this host for coi. Safe to run again.

  --yes         ask nothing
  --dry-run     print each command that would run, change nothing
  --no-image    leave the image to `coi build`
  --start       only start lxcfs and incusd where they are down (after a reboot on a host without systemd)
  --user NAME   whom to let use Incus (default: whoever called sudo, else the caller)
  --help        this text

Environment:
  COI_PREFIX    where coi is installed (default /opt/coi)
  COI_BIN_DIR   where the link to coi goes (default /usr/local/bin)
  COI_PYTHON    the interpreter for coi's venv (default: the distribution's)
  COI_BRIDGE    name of the bridge, if one is made (default incusbr0)
  COI_SUBNET    its address, such as 10.9.8.1/24 (default: a free one is chosen)
  COI_POOL_GIB  size of the storage pool, if one is made (default: half of the free space, 30 to 100)
Proxy variables, PIP_* and the usual CA bundle variables are passed on.
TEXT
}

settings() {
  umask 022
  unset PYTHONPATH PYTHONHOME
  PREFIX=${COI_PREFIX:-/opt/coi}
  BIN_DIR=${COI_BIN_DIR:-/usr/local/bin}
  BRIDGE=${COI_BRIDGE:-incusbr0}
  LOG=${COI_INSTALL_LOG:-/var/log/coi-install.log}
  INCUS_DIR=${INCUS_DIR:-/var/lib/incus}
  LXCFS_DIR=/var/lib/lxcfs
  GROUP='incus-admin'
  TOLD=90 # the exit code of a subshell whose failure has been told already
  YES='' DRY='' IMAGE=1 START='' FOR_USER='' STEP=start OUTPUT=/dev/null ADDED_SUBIDS='' PYTHON=''
  export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:/opt/incus/bin"
  export INCUS_REMOTE=local INCUS_PROJECT=default DEBIAN_FRONTEND=noninteractive
  # The variables that sudo and the daemon must not lose.
  PASSED=(http_proxy https_proxy no_proxy all_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY
    SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE NODE_EXTRA_CA_CERTS)
  OURS=(PIP_CERT PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_CONFIG_FILE PIP_DEFAULT_TIMEOUT PIP_NO_INDEX
    PIP_TRUSTED_HOST COI_PREFIX COI_BIN_DIR COI_PYTHON COI_BRIDGE COI_SUBNET COI_POOL_GIB COI_INSTALL_LOG COI_SOURCE)
}

say() { printf '%s\n' "$*"; }
warn() { printf 'Warning: %s\n' "$*" >&2; }

fail() { # WHAT [HINT] [EXIT CODE]
  printf 'Error: %s\n' "$1" >&2
  [[ -z ${2:-} ]] || printf 'Hint: %s\n' "$2" >&2
  if [[ $BASH_SUBSHELL -gt 0 ]]; then exit "$TOLD"; fi
  exit "${3:-1}"
}

# Any other command that fails under set -e ends here (trap ERR), so that no failure is silent.
unexpected() { # EXIT CODE, COMMAND
  if [[ $1 -ne $TOLD ]]; then tell_failure "$1" "$2"; fi
  if [[ $BASH_SUBSHELL -gt 0 ]]; then exit "$TOLD"; fi
  exit 1
}

step() {
  STEP=$1
  say "==> $1"
}

# A rehearsal (--dry-run) can be told of another host: COI_PROBE=bare (nothing is installed), COI_PROBE_SYSTEMD,
# COI_PROBE_BTRFS (yes or no), COI_PROBE_FREE_GIB, COI_ROUTES (a file instead of the host's routes).
bare() { [[ ${COI_PROBE:-} == bare ]]; }
have() { ! bare && command -v "$1" >/dev/null 2>&1; }

has_systemd() {
  case ${COI_PROBE_SYSTEMD:-} in
    yes) true ;;
    no) false ;;
    *) [[ -d /run/systemd/system ]] && command -v systemctl >/dev/null 2>&1 ;;
  esac
}

quoted() {
  local word text=''
  for word in "$@"; do text+=" $(printf '%q' "$word")"; done
  printf '%s' "${text# }"
}

# Runs a command with its output in the log; a failure names the step, the command and the log.
run() {
  if [[ -n $DRY ]]; then
    say "+ $(quoted "$@")"
    return 0
  fi
  printf '+ %s\n' "$(quoted "$@")" >>"$OUTPUT"
  local code=0
  "$@" </dev/null >>"$OUTPUT" 2>&1 9>&- || code=$?
  [[ $code -eq 0 ]] || failed_step "$code" "$@"
}

failed_step() { # EXIT CODE, COMMAND...
  local code=$1
  shift
  tell_failure "$code" "$(quoted "$@")"
  if [[ $BASH_SUBSHELL -gt 0 ]]; then exit "$TOLD"; fi
  exit 1
}

tell_failure() { # EXIT CODE, COMMAND AS TEXT
  {
    printf 'Error: step "%s" failed (exit %s): %s\n' "$STEP" "$1" "$2"
    # What the log says since the last command began.
    [[ ! -s $OUTPUT ]] || awk '/^(\+ |---- )/ {n = 0; next} {last[n++] = $0}
      END {for (i = n > 15 ? n - 15 : 0; i < n; i++) print "  | " last[i]}' "$OUTPUT"
    [[ $OUTPUT == /dev/null ]] || printf 'Log: %s\n' "$OUTPUT"
    printf 'Hint: mend that and run the same command again; the finished steps are skipped.\n'
  } >&2
}

put_file() { # PATH, its new content on standard input
  if [[ -n $DRY ]]; then
    say "+ write $1:"
    sed '16,$d; s/^/    /'
  else
    mkdir -p "$(dirname "$1")"
    cat >"$1.coi-new"
    chmod 0644 "$1.coi-new"
    mv "$1.coi-new" "$1"
    printf '+ write %s\n' "$1" >>"$OUTPUT"
  fi
}

# ---- the host ---------------------------------------------------------------------------------------------

detect_host() {
  local file=${COI_OS_RELEASE:-/etc/os-release}
  [[ -r $file ]] || fail "cannot tell the distribution: $file is missing"
  # shellcheck disable=SC1090
  OS=$(. "$file" && printf '%s' "${ID:-unknown}")
  # shellcheck disable=SC1090
  OS_VERSION=$(. "$file" && printf '%s' "${VERSION_ID:-}")
  # shellcheck disable=SC1090
  OS_NAME=$(. "$file" && printf '%s' "${PRETTY_NAME:-$OS}")
  case $OS-$OS_VERSION in
    debian-12) HOST=bookworm ;;
    debian-13) HOST=trixie ;;
    ubuntu-22.04) HOST=jammy ;;
    ubuntu-24.04) HOST=noble ;;
    arch-* | archarm-*) HOST=arch ;;
    fedora-*) HOST=fedora ;;
    *) HOST=unknown ;;
  esac
  case $(uname -m) in
    x86_64 | aarch64) ;;
    *) fail "this processor is not supported: $(uname -m)" "x86_64 and aarch64 are." ;;
  esac
}

find_incusd() {
  local path
  ! bare || return 1
  for path in /usr/libexec/incus/incusd /usr/lib/incus/incusd /opt/incus/bin/incusd "$(command -v incusd || true)"; do
    if [[ -n $path && -x $path ]]; then
      printf '%s' "$path"
      return 0
    fi
  done
  return 1
}

wanted_packages() {
  local incus=() others=()
  case $HOST in
    bookworm) incus=(incus-base/bookworm-backports incus-client/bookworm-backports) ;;
    trixie | noble) incus=(incus-base incus-client) ;;
    jammy) incus=(incus) ;;
    arch) incus=(incus) ;;
    fedora) incus=(incus incus-client) ;;
  esac
  case $HOST in
    arch) others=(python dnsmasq nftables btrfs-progs iproute2 ca-certificates acl lxcfs) ;;
    fedora) others=(python3 dnsmasq nftables btrfs-progs iproute ca-certificates acl lxcfs) ;;
    jammy | noble | bookworm | trixie)
      others=(dnsmasq-base uidmap nftables btrfs-progs mmdebstrap python3 python3-venv iproute2 ca-certificates acl)
      # The Zabbly packages bring an lxcfs of their own.
      [[ $HOST == jammy ]] || others+=(lxcfs)
      [[ $OS != ubuntu ]] || others+=(debian-archive-keyring)
      [[ $(cat /sys/module/apparmor/parameters/enabled 2>/dev/null) != Y ]] || others+=(apparmor)
      ;;
  esac
  # Incus from elsewhere (a third-party repository, a build of one's own) is left as it is.
  ! find_incusd >/dev/null || ! have incus || incus=()
  printf '%s\n' "${incus[@]}" "${others[@]}" | sed '/^$/d'
}

is_installed() {
  ! bare || return 1
  case $HOST in
    arch) pacman -T "$1" >/dev/null 2>&1 ;;
    fedora) rpm -q --whatprovides "$1" >/dev/null 2>&1 ;;
    *) [[ $(dpkg-query -W -f='${db:Status-Status}' "${1%%/*}" 2>/dev/null) == installed ]] ;;
  esac
}

missing_packages() {
  local name
  while read -r name; do
    is_installed "$name" || printf '%s\n' "$name"
  done < <(wanted_packages)
}

# The configured sources, fetched or not: release|component|address|file:line.
apt_targets() {
  apt-get indextargets -o APT::Get::IndexTargets::ReleaseInfo=false \
    --format "\$(RELEASE)|\$(COMPONENT)|\$(REPO_URI)|\$(SOURCESENTRY)" 'Created-By: Packages' 2>/dev/null
}

# Backports come from the mirror that the host's own sources name, with the key they name.
add_backports() {
  local targets line uri file key
  targets=$(apt_targets || true)
  ! grep -q '^bookworm-backports|main|' <<<"$targets" || return 0
  line=$(grep -m1 '^bookworm|main|' <<<"$targets" || true)
  IFS='|' read -r _ _ uri file <<<"$line"
  key=$(sed -nE 's/^[^#]*[Ss]igned-[Bb]y[=:] ?([^] ]+).*/\1/p' "${file%:*}" 2>/dev/null | head -n1 || true)
  [[ $key == /* ]] || key=/usr/share/keyrings/debian-archive-keyring.gpg
  case $uri in
    '' | cdrom:*) fail "this host's apt sources name no mirror of bookworm, so bookworm-backports (where Incus is) cannot be added" \
      "Add bookworm-backports to /etc/apt/sources.list.d and run this again." ;;
  esac
  {
    printf 'Types: deb\nURIs: %s\nSuites: bookworm-backports\nComponents: main\n' "$uri"
    if [[ -e $key ]]; then printf 'Signed-By: %s\n' "$key"; fi
  } | put_file /etc/apt/sources.list.d/coi-backports.sources
}

# Ubuntu 22.04 has no Incus of its own. The Incus project's builds for it are Zabbly's.
add_zabbly() {
  local key=/etc/apt/keyrings/zabbly.asc print=4EFC590696CB15B87C73A3AD82CC8797C838DCFD
  say "Ubuntu 22.04 has no incus package: it needs Zabbly's repository (pkgs.zabbly.com, a third party that the Incus project names)."
  [[ -n $YES || -n $DRY ]] || ask "Add that repository and its key?" ||
    fail "Incus is not installed" "Install Incus on your own and run this again: Ubuntu 24.04 and later have it in universe."
  run apt-get -o DPkg::Lock::Timeout=120 update
  run apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends ca-certificates curl gnupg
  run mkdir -p /etc/apt/keyrings
  if [[ -n $DRY ]]; then
    say "+ curl -fsSL --connect-timeout 15 --max-time 60 -o $key https://pkgs.zabbly.com/key.asc   # its fingerprint must be $print"
  else
    curl -fsSL --connect-timeout 15 --max-time 60 -o "$key.coi-new" https://pkgs.zabbly.com/key.asc >>"$OUTPUT" 2>&1 ||
      fail "Zabbly's key cannot be fetched from https://pkgs.zabbly.com/key.asc, and Ubuntu 22.04 has no Incus of its own" \
        "Open that address for this host, install Incus another way, or use Ubuntu 24.04; then run this again."
    gpg --show-keys --with-colons "$key.coi-new" 2>>"$OUTPUT" | grep "^fpr:.*:$print:" >/dev/null ||
      fail "the key at https://pkgs.zabbly.com/key.asc is not the one that was published (fingerprint $print): not trusted"
    mv "$key.coi-new" "$key"
    chmod 0644 "$key"
  fi
  put_file /etc/apt/sources.list.d/zabbly-incus-lts-6.0.sources <<TEXT
Enabled: yes
Types: deb
URIs: https://pkgs.zabbly.com/incus/lts-6.0
Suites: jammy
Components: main
Architectures: $(dpkg --print-architecture 2>/dev/null || echo amd64)
Signed-By: $key
TEXT
}

packages_step() {
  local names=() apt=(apt-get -o DPkg::Lock::Timeout=120)
  step "packages"
  if [[ $HOST == unknown ]]; then
    find_incusd >/dev/null && have incus && return 0
    fail "$OS_NAME is not one of the distributions that this script knows (Debian 12 and 13, Ubuntu 22.04 and 24.04, Arch, Fedora), and Incus is not installed" \
      "Install Incus with your distribution's tools, then run this again: it does the rest."
  fi
  mapfile -t names < <(missing_packages)
  [[ ${#names[@]} -gt 0 ]] || return 0
  say "    ${names[*]} (this takes some minutes)"
  case $HOST in
    arch) run pacman -S --needed --noconfirm "${names[@]}" ;;
    fedora) run dnf install -y --setopt=install_weak_deps=False "${names[@]}" ;;
    *)
      [[ $HOST != jammy || " ${names[*]} " != *" incus "* ]] || add_zabbly
      [[ " ${names[*]} " != *bookworm-backports* ]] || add_backports
      run "${apt[@]}" update
      run "${apt[@]}" install -y --no-install-recommends "${names[@]}"
      ;;
  esac
}

# ---- users and ids ----------------------------------------------------------------------------------------

add_line() { # FILE LINE
  if [[ -n $DRY ]]; then
    say "+ echo $2 >>$1"
    return 0
  fi
  [[ ! -s $1 || -z $(tail -c1 "$1") ]] || echo >>"$1"
  printf '%s\n' "$2" >>"$1"
  printf '+ echo %s >>%s\n' "$2" "$1" >>"$OUTPUT"
}

# incusd wants at least 10 million ids for root, and reads them when it starts; raw.idmap (hosts without idmapped
# mounts) wants the user's own, which may come later.
subids_step() {
  local file uid
  step "sub-ids"
  uid=$(id -u "$FOR_USER")
  for file in /etc/subuid /etc/subgid; do
    if bare || ! awk -F: '($1 == "root" || $1 == "0") && $3 >= 10000000 {ok = 1} END {exit !ok}' "$file" 2>/dev/null; then
      add_line "$file" root:1000000:1000000000
      ADDED_SUBIDS=1
    fi
    [[ $file == /etc/subuid ]] || uid=$(id -g "$FOR_USER")
    if [[ $uid -ne 0 ]] && { bare || ! grep -qx "root:$uid:1" "$file"; }; then
      add_line "$file" "root:$uid:1"
    fi
  done
}

# True if a process of the user's is older than the membership: it has not got the group.
older_session() { # USER
  local uid gid
  uid=$(id -u "$1")
  gid=$(getent group "$GROUP" | cut -d: -f3)
  awk -v uid="$uid" -v gid="$gid" '/^Uid:/ {own = $2 == uid} /^Gid:/ {in_it = $3 == gid}
    /^Groups:/ && own {for (i = 2; i <= NF; i++) in_it += $i == gid; if (!in_it) found = 1}
    END {exit !found}' < <(cat /proc/[0-9]*/status 2>/dev/null || true)
}

# Such a session is let in by an entry in the ACL of the socket, which is made anew at the next boot. The user could
# have the group there at any time (newgrp), so this gives them nothing more.
let_in_step() {
  [[ $FOR_USER != root ]] || return 0
  if [[ -n $DRY ]]; then
    [[ -z $NEW_MEMBER ]] || run setfacl -m "u:$FOR_USER:rw" "$INCUS_DIR/unix.socket"
  elif older_session "$FOR_USER"; then
    step "sessions of $FOR_USER that are open"
    printf '+ setfacl -m u:%s:rw %s\n' "$FOR_USER" "$INCUS_DIR/unix.socket" >>"$OUTPUT"
    setfacl -m "u:$FOR_USER:rw" "$INCUS_DIR/unix.socket" >>"$OUTPUT" 2>&1 || NEEDS_LOGIN=1
  fi
}

in_group() { ! bare && id -nG "$1" 2>/dev/null | tr ' ' '\n' | grep -x "$GROUP" >/dev/null; }

group_step() {
  step "group $GROUP"
  # The package makes the group; a build of one's own may not.
  bare || getent group "$GROUP" >/dev/null || run groupadd --system "$GROUP"
  [[ $FOR_USER != root ]] || return 0
  in_group "$FOR_USER" || run usermod -aG "$GROUP" "$FOR_USER"
}

# ---- the daemon -------------------------------------------------------------------------------------------

daemon_up() { ! bare && command -v incus >/dev/null 2>&1 && timeout 10 incus query /1.0 >/dev/null 2>&1; }
lxcfs_up() { timeout 3 cat "$LXCFS_DIR/proc/uptime" >/dev/null 2>&1; }
mounted() { awk -v path="$1" '$2 == path {found = 1} END {exit !found}' /proc/mounts; }

# True if an incusd of this root file system runs (a container's own has another root). What incusd forks has its
# name, too, and outlives it: the monitors of containers ("[lxc monitor] ..."), forkexec, forkproxy, ...
incusd_runs() {
  local process arguments
  for process in /proc/[0-9]*; do
    if [[ $(cat "$process/comm" 2>/dev/null) == incusd && "$process/root" -ef / ]]; then
      mapfile -d '' -t arguments 2>/dev/null <"$process/cmdline" || continue
      [[ ${arguments[0]:-} != *incusd || ${arguments[1]:--} != -* ]] || return 0
    fi
  done
  return 1
}

# Starts a daemon in a session of its own, with none of the caller's descriptors and little of its environment.
daemonise() { # LOG COMMAND...
  local log=$1 name kept=()
  shift
  for name in "${PASSED[@]}"; do
    [[ -z ${!name:-} ]] || kept+=("$name=${!name}")
  done
  if [[ -n $DRY ]]; then
    say "+ setsid $(quoted "$@") </dev/null >>$log 2>&1 &"
    return 0
  fi
  printf '+ setsid %s >>%s &\n' "$(quoted "$@")" "$log" >>"$OUTPUT"
  (
    cd /
    ulimit -n 1048576 2>/dev/null || ulimit -n "$(ulimit -Hn)"
    for name in /proc/self/fd/*; do
      name=${name##*/}
      if [[ $name -gt 2 ]]; then exec {name}>&-; fi
    done
    exec setsid env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/incus/bin HOME=/root \
      LANG=C.UTF-8 "${kept[@]}" "$@" </dev/null >>"$log" 2>&1
  ) &
}

start_lxcfs() {
  local lxcfs tries
  ! lxcfs_up || bare || return 0
  lxcfs=$(command -v lxcfs || true)
  [[ -n $lxcfs || -z $DRY ]] || lxcfs=/usr/bin/lxcfs
  if [[ ! -e /dev/fuse || -z $lxcfs ]]; then
    warn "lxcfs cannot run here ($([[ -e /dev/fuse ]] && echo "it is not installed" || echo "there is no /dev/fuse")): containers will see the host's memory and processors"
    return 0
  fi
  # The mount of an lxcfs that was killed answers "Transport endpoint is not connected" until it is taken away.
  for tries in 1 2 3 4 5; do
    bare || mounted "$LXCFS_DIR" || break
    ! bare || break
    run umount -l "$LXCFS_DIR"
  done
  run mkdir -p "$LXCFS_DIR"
  daemonise /var/log/lxcfs.log "$lxcfs" "$LXCFS_DIR"
  [[ -z $DRY ]] || return 0
  for ((tries = 0; tries < 200; tries++)); do
    ! lxcfs_up || return 0
    sleep 0.05
  done
  warn "lxcfs did not start (see /var/log/lxcfs.log): containers will see the host's memory and processors"
}

start_incusd() {
  local incusd
  if ! daemon_up; then
    incusd=$(find_incusd || true)
    [[ -n $incusd || -z $DRY ]] || incusd=/usr/libexec/incus/incusd
    [[ -n $incusd ]] || fail "incusd is not installed" "Run install.sh without --start."
    if bare || ! incusd_runs; then
      # Whatever socket is there belongs to a daemon that was killed.
      bare || [[ ! -e $INCUS_DIR/unix.socket ]] || run rm -f "$INCUS_DIR/unix.socket"
      run mkdir -p /var/log/incus
      if bare || ! grep -qE '^[^ ]+ [^ ]+ cgroup2? ' /proc/mounts; then
        run mount -t cgroup2 cgroup2 /sys/fs/cgroup
      fi
      daemonise /var/log/incus/incusd.log "$incusd" --group "$GROUP"
    fi
  fi
  if ! daemon_up; then wait_ready; fi
}

wait_ready() {
  if [[ -z $DRY ]] && ! has_systemd; then
    # Until the socket is there, waitready sleeps between its tries.
    local tries
    for ((tries = 0; tries < 200; tries++)); do
      [[ ! -S $INCUS_DIR/unix.socket ]] || break
      sleep 0.05
    done
  fi
  run timeout 130 incus admin waitready --timeout=120
}

daemon_step() {
  step "the daemon"
  if has_systemd; then
    if ! daemon_up; then
      run systemctl enable --now incus.socket
      run systemctl start incus.service
      wait_ready
    elif [[ -n $ADDED_SUBIDS ]]; then
      # Running containers outlive a restart of the daemon.
      run systemctl restart incus.service
      wait_ready
    fi
  else
    if [[ -n $ADDED_SUBIDS ]] && daemon_up; then
      say "    incusd has read the sub-ids before they were there: restart it when no session runs"
    fi
    start_lxcfs
    start_incusd
    [[ -z $START ]] || load_guard
  fi
  [[ -n $DRY ]] || daemon_up || failed_step 1 incus query /1.0
}

# ---- storage, network, default profile --------------------------------------------------------------------

# Puts a question in Python to an answer of the daemon: json PATH EXPRESSION. The answer is `it`, a list where it
# is null (as it is for no pools at all).
# What all containers of a user mapping share, and the kernel keeps low: 128 inotify instances are some 16 containers
# with systemd. Incus, "Server settings for a production setup", has far higher ones.
kernel_step() {
  local setting key want have low='' all=()
  for setting in fs.inotify.max_user_instances=8192 kernel.keys.maxkeys=2000 kernel.keys.maxbytes=2000000; do
    key=${setting%=*} want=${setting#*=} have=0
    bare || have=$(cat "/proc/sys/${key//.//}" 2>/dev/null || echo "$want")
    if [[ $have -lt $want ]]; then low=1; else want=$have; fi
    all+=("$key = $want")
  done
  [[ -n $low ]] || return 0
  step "room for many containers"
  printf '%s\n' "# Written by coi's install.sh: 'coi doctor' tells what for." "${all[@]}" | put_file /etc/sysctl.d/60-coi.conf
  for setting in "${all[@]}"; do
    key=${setting% = *} want=${setting#* = }
    if [[ -n $DRY ]]; then
      say "+ sysctl -w $key=$want"
    elif ! printf '%s\n' "$want" 2>>"$OUTPUT" >"/proc/sys/${key//.//}"; then
      warn "$key stays as it is: some 16 containers can run at a time"
    fi
  done
}

json() {
  local answer
  # A dry run before the daemon runs, or by somebody whom it does not answer, takes it to have nothing.
  [[ -z $DRY ]] || daemon_up || return 0
  answer=$(timeout 30 incus query --raw "$1" 2>>"$OUTPUT") || failed_step $? incus query --raw "$1"
  "${PYTHON:-python3}" -I -c 'import json, sys; it = json.loads(sys.argv[1])["metadata"] or []; print(eval(sys.argv[2]))' \
    "$answer" "$2" 2>>"$OUTPUT" || failed_step $? incus query --raw "$1"
}

free_gib() {
  local dir=$INCUS_DIR
  while [[ ! -d $dir ]]; do dir=$(dirname "$dir"); done
  if [[ -n ${COI_PROBE_FREE_GIB:-} ]]; then
    printf '%s' "$COI_PROBE_FREE_GIB"
  else
    df -B1G --output=avail "$dir" | tail -n1 | tr -d ' '
  fi
}

pool_gib() {
  local free size
  free=$(free_gib)
  size=${COI_POOL_GIB:-}
  if [[ -z $size ]]; then
    size=$((free / 2))
    [[ $size -le 100 ]] || size=100
    [[ $size -ge 30 ]] || size=30
    [[ $size -le $((free - 2)) ]] || size=$((free - 2))
  fi
  printf '%s' "$size"
}

btrfs_usable() {
  case ${COI_PROBE_BTRFS:-} in
    yes) return 0 ;;
    no) return 1 ;;
  esac
  if ! grep -qw btrfs /proc/filesystems; then
    [[ -n $DRY ]] || modprobe btrfs >>"$OUTPUT" 2>&1 || true
    grep -qw btrfs /proc/filesystems || return 1
  fi
  [[ -e /dev/loop-control ]] || { [[ -z $DRY ]] && modprobe loop >>"$OUTPUT" 2>&1; } || return 1
  [[ -n $DRY ]] || have mkfs.btrfs || return 1
  [[ $(id -u) -ne 0 ]] || losetup -f >/dev/null 2>&1
}

make_pool() {
  local size free
  free=$(free_gib)
  size=$(pool_gib)
  [[ $free -ge 6 ]] || fail "only $free GiB are free below $INCUS_DIR: the image alone needs 6" "Make room and run this again."
  if [[ $(stat -f -c %T "$INCUS_DIR" 2>/dev/null) == btrfs ]]; then
    # A file on btrfs would be copied on each write: a subvolume is better, and has no size of its own.
    run incus storage create default btrfs "source=$INCUS_DIR/storage-pools/default"
    return 0
  fi
  [[ $size -ge 30 ]] || warn "the storage pool gets only $size GiB ($free GiB are free); 30 GiB are advised: building images can fill it"
  if btrfs_usable; then
    say "    btrfs on a sparse file of $size GiB"
    if [[ -n $DRY ]] || incus storage create default btrfs "size=${size}GiB" >>"$OUTPUT" 2>&1; then
      [[ -z $DRY ]] || run incus storage create default btrfs "size=${size}GiB"
      return 0
    fi
    say "    that failed: $(tail -n1 "$OUTPUT")"
  fi
  warn "btrfs cannot be used here (no support in the kernel, or no loop device): the pool is a plain directory, so containers start slower and have no disk limit"
  run incus storage create default dir
}

# Puts a dotted address as one number into NUMBER.
number() {
  local IFS=. a b c d
  read -r a b c d <<<"$1"
  NUMBER=$(((a << 24) + (b << 16) + (c << 8) + d))
}

# Networks and addresses that the host already uses: routes, addresses, name servers. One a line, n.n.n.n[/n].
taken_networks() {
  if [[ -n ${COI_ROUTES:-} ]]; then
    cat "$COI_ROUTES"
  else
    ip -4 route show table all 2>/dev/null || true
    ip -4 -o address show 2>/dev/null || true
    sed -n 's/^nameserver //p' /etc/resolv.conf 2>/dev/null || true
  fi | grep -oE '([0-9]+\.){3}[0-9]+(/[0-9]+)?' | sort -u
}

# True if the network $1 (n.n.n.n/n) touches none of those on standard input. A default route, also one in two
# halves as VPNs set it, takes nothing.
is_free() {
  local base bits=${1#*/} other other_bits shift
  number "${1%/*}"
  base=$NUMBER
  while read -r other; do
    other_bits=32
    [[ $other != */* ]] || other_bits=${other#*/}
    [[ $other_bits -ge 4 ]] || continue
    number "${other%/*}"
    shift=$((32 - (bits < other_bits ? bits : other_bits)))
    [[ $((base >> shift)) -ne $((NUMBER >> shift)) ]] || return 1
  done
  return 0
}

choose_subnet() {
  local taken candidate i
  taken=$(taken_networks || true)
  if [[ -n ${COI_SUBNET:-} ]]; then
    [[ $COI_SUBNET =~ ^([0-9]{1,3}\.){3}[0-9]{1,3}/(1[6-9]|2[0-9])$ ]] || fail "COI_SUBNET is not an address with its prefix: $COI_SUBNET" "Give one such as 10.9.8.1/24." 2
    is_free "$COI_SUBNET" <<<"$taken" || fail "the subnet of COI_SUBNET is in use on this host: $COI_SUBNET" "See \`ip -4 route\` and choose another."
    printf '%s' "$COI_SUBNET"
    return 0
  fi
  for candidate in 10.213.77 10.157.83 10.91.146 172.29.147 172.23.59 192.168.213 192.168.167; do
    ! is_free "$candidate.0/24" <<<"$taken" || { printf '%s.1/24' "$candidate" && return 0; }
  done
  for ((i = 1; i < 250; i++)); do
    candidate=10.$((i * 37 % 254 + 1)).$((i * 101 % 254 + 1))
    ! is_free "$candidate.0/24" <<<"$taken" || { printf '%s.1/24' "$candidate" && return 0; }
  done
  fail "no free private subnet was found for the bridge: this host has routes to all of them" \
    "Choose one that nobody needs and give it: COI_SUBNET=10.9.8.1/24"
}

incus_step() {
  local devices pool network address
  step "storage pool, bridge and default profile"
  if [[ -n $DRY ]] && ! bare && find_incusd >/dev/null && ! daemon_up; then
    warn "the daemon does not answer $(id -un), so Incus is taken to have nothing yet"
  fi
  devices=$(json /1.0/profiles/default "[d.get('type') + ':' + d.get('path', '') for d in it['devices'].values()]")
  if [[ $devices != *"'disk:/'"* ]]; then
    pool=$(json '/1.0/storage-pools?recursion=1' "next((p['name'] for d in ('zfs', 'btrfs', 'lvm', '') for p in it if d in ('', p['driver'])), '')")
    if [[ -z $pool ]]; then
      make_pool
      pool=default
    fi
    run incus profile device add default root disk path=/ "pool=$pool"
  fi
  if [[ $devices != *"'nic:"* ]]; then
    network=$(json '/1.0/networks?recursion=1' "next((n['name'] for n in it if n['managed'] and n['type'] in ('bridge', 'ovn')), '')")
    if [[ -z $network ]]; then
      address=$(choose_subnet)
      say "    bridge $BRIDGE with $address"
      run incus network create "$BRIDGE" --type=bridge "ipv4.address=$address" ipv4.nat=true ipv6.address=none
      network=$BRIDGE
    fi
    run incus profile device add default eth0 nic name=eth0 "network=$network"
  fi
}

# Things on the host that commonly cut containers off. Nothing is changed: they are the administrator's. Sessions are
# on the bridges of their policies (coi-...), with --network=open and while an image is built on the profile's. What
# these rules accept Incus still rejects by its own, which are in a table of their own with nftables.
firewall_notes() {
  [[ -z $DRY && $(id -u) -eq 0 ]] || return 0
  local driver
  driver=$(json /1.0 "it['environment']['firewall']")
  firewall_hints "$driver"
}

firewall_hints() { # nftables OR xtables
  local name chain=DOCKER-USER ufw='' zone='' docker=''
  have iptables && iptables -S DOCKER-USER >/dev/null 2>&1 || chain=FORWARD
  for name in "$BRIDGE" 'coi-+'; do # + is any ending, to all three of them
    ufw+=" && ufw allow in on $name && ufw route allow in on $name && ufw route allow out on $name"
    zone+=" && firewall-cmd --permanent --zone=trusted --change-interface=$name"
    docker+=" && iptables -I $chain -i $name -j ACCEPT && iptables -I $chain -o $name -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
  done
  if have ufw && ufw status 2>/dev/null | grep '^Status: active' >/dev/null &&
    ! ufw status | grep -F 'on coi-+' >/dev/null; then
    warn "ufw is active and drops the containers' traffic. Allow it: ${ufw# && }"
  fi
  if have firewall-cmd && firewall-cmd --state >/dev/null 2>&1 &&
    ! firewall-cmd --zone=trusted --list-interfaces 2>/dev/null | grep -F 'coi-+' >/dev/null; then
    warn "firewalld is active and drops the containers' traffic. Allow it: ${zone# && } && firewall-cmd --reload"
  fi
  if have iptables && iptables -S FORWARD 2>/dev/null | grep -x -- '-P FORWARD DROP' >/dev/null &&
    ! iptables -C "$chain" -i 'coi-+' -j ACCEPT 2>/dev/null; then
    if [[ $1 == nftables ]]; then
      warn "the host's FORWARD chain drops by default (Docker does that), so containers get no network. Allow it, at each boot: ${docker# && }"
    else
      warn "the host's FORWARD chain drops by default (Docker does that), so containers get no network. Incus uses iptables here, where a rule that accepts may come before those of a policy: have Docker leave the default as it is instead (\"ip-forward-no-drop\": true in /etc/docker/daemon.json), then: iptables -P FORWARD ACCEPT"
    fi
  fi
}

# ---- coi --------------------------------------------------------------------------------------------------

# True if every user may reach and read the file: each directory above it must let others through.
readable_by_all() {
  local path mode
  path=$(readlink -f -- "$1") || return 1
  mode=$(stat -c %A -- "$path") || return 1
  [[ ${mode:7:1} == r ]] || return 1
  [[ ! -d $path || ${mode:9:1} == [xt] ]] || return 1
  while [[ $path != / ]]; do
    path=$(dirname "$path")
    mode=$(stat -c %A -- "$path")
    [[ ${mode:9:1} == [xt] ]] || return 1
  done
}

# Prints why an interpreter cannot carry coi, nothing if it can.
python_trouble() {
  local where
  [[ -x $1 ]] || { echo "not there" && return 0; }
  where=$("$1" -I -c 'import os, sys; print(*sys.version_info[:2], os.path.dirname(os.__file__))' 2>/dev/null) || { echo "does not run" && return 0; }
  local major minor lib
  read -r major minor lib <<<"$where"
  if [[ $major -lt 3 || $minor -lt 10 ]]; then
    echo "is Python $major.$minor, older than 3.10"
  elif ! readable_by_all "$1" || ! readable_by_all "$lib/os.py"; then
    echo "lies where not every user may read it ($(readlink -f "$1"))"
  elif ! "$1" -I -c 'import venv, ensurepip' 2>/dev/null; then
    echo "has no venv module (Debian and Ubuntu: apt-get install python3-venv)"
  fi
}

choose_python() {
  local path trouble seen=''
  for path in ${COI_PYTHON:-/usr/bin/python3 /usr/bin/python3.1[0-9] /usr/local/bin/python3 /usr/local/bin/python3.1[0-9]}; do
    trouble=$(python_trouble "$path")
    if [[ -z $trouble ]]; then
      PYTHON=$path
      return 0
    fi
    [[ $trouble == "not there" && -z ${COI_PYTHON:-} ]] || seen+="; $path $trouble"
  done
  if [[ -n $DRY ]]; then
    PYTHON=/usr/bin/python3
    return 0
  fi
  fail "no Python 3.10 or newer that every user of this host can run${seen}" "Install your distribution's python3 (with venv), or name one: COI_PYTHON=/path/to/python3"
}

# The checkout that this script lies in; empty where it was piped into bash.
find_source() {
  local here=''
  if [[ -n ${COI_SOURCE:-} ]]; then
    here=$COI_SOURCE
  elif [[ -n ${BASH_SOURCE[0]:-} && -f ${BASH_SOURCE[0]:-} ]]; then
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
  fi
  if [[ -n $here && -f $here/pyproject.toml && -d $here/coi ]] && grep -q '^name = "code-on-incus"' "$here/pyproject.toml"; then
    SOURCE=$here
  else
    SOURCE=''
  fi
}

source_hash() {
  {
    "$PYTHON" -I -c 'import sys; print(sys.version, sys.executable)' 2>/dev/null || true
    cd "$SOURCE" && find coi pyproject.toml README.md LICENSE -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum
  } | sha256sum | cut -d' ' -f1
}

coi_step() {
  local venv=$PREFIX/venv hash='' link=$BIN_DIR/coi
  step "coi"
  if [[ -n $SOURCE ]]; then hash=$(source_hash); fi
  if [[ -e $link && ! -L $link ]]; then
    fail "$link is another program, not a link to $venv/bin/coi" "Move it away (or set COI_BIN_DIR) and run this again."
  fi
  if bare || [[ -z $hash || $(cat "$venv/.coi-source" 2>/dev/null) != "$hash" ]] || ! "$venv/bin/python" -I -c 'import coi' 2>/dev/null; then
    if bare || ! "$venv/bin/python" -I -c 'import pip' 2>/dev/null; then
      run mkdir -p "$PREFIX"
      run "$PYTHON" -m venv --clear "$venv"
    fi
    run "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --upgrade "${SOURCE:-code-on-incus}"
    run chmod -R a+rX "$PREFIX"
    if [[ -n $hash && -z $DRY ]]; then printf '%s\n' "$hash" >"$venv/.coi-source"; fi
  fi
  if [[ -z $DRY ]] && ! readable_by_all "$venv/bin/coi"; then
    fail "$venv/bin/coi cannot be read by every user" "Every directory above it must let others through (chmod o+x); or choose another COI_PREFIX."
  fi
  keep_script
  [[ -d $BIN_DIR ]] || run mkdir -p "$BIN_DIR"
  if bare || [[ $(readlink "$link" 2>/dev/null) != "$venv/bin/coi" ]]; then run ln -sfn "$venv/bin/coi" "$link"; fi
}

# The program text, for `sudo bash -c` and for the copy that starts the daemons again.
own_text() {
  printf '#!/usr/bin/env bash\nset -euo pipefail\n'
  declare -f
  # shellcheck disable=SC2016
  printf 'main "$@"\n'
}

keep_script() {
  local copy=$PREFIX/install.sh
  ! { ! bare && [[ -r $copy && $(cat "$copy") == "$(own_text)" ]]; } || return 0
  own_text | put_file "$copy"
  run chmod 0755 "$copy"
}

# Incus lets a session ask every resolver of the host; these rules do not.
guard_step() {
  local rules=$PREFIX/network-guard.nft unit=/etc/systemd/system/coi-network-guard.service nft=/usr/sbin/nft
  step "the guard of the host's resolvers"
  bare || nft=$(command -v nft || true)
  run sh -c 'exec "$0" network guard >"$1"' "$BIN_DIR/coi" "$rules"
  if [[ -z $DRY ]] && ! { [[ -n $nft ]] && "$nft" -c -f "$rules" >>"$OUTPUT" 2>&1; }; then
    warn "the kernel does not take $rules: sessions may ask every resolver of this host"
    return 0
  fi
  if has_systemd; then
    put_file "$unit" <<U
[Unit]
Description=Keep sessions of coi from other resolvers of this host
After=network-pre.target nftables.service
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=$BIN_DIR/coi network guard --load
ExecReload=$BIN_DIR/coi network guard --load
ExecStopPost=/bin/rm -f /run/coi-network-guard

[Install]
WantedBy=multi-user.target
U
    run systemctl daemon-reload
    run systemctl enable coi-network-guard.service
    run systemctl restart coi-network-guard.service
  else
    load_guard
  fi
}

load_guard() {
  local rules=$PREFIX/network-guard.nft
  # It leaves a stamp in /run, by which users' coi knows that the rules are loaded.
  if [[ -n $DRY || -s $rules ]]; then run "$BIN_DIR/coi" network guard --load; fi
}

image_step() {
  local uid code=0 command=()
  [[ -n $IMAGE ]] || return 0
  step "image"
  # The user inside gets the id of whoever was first to be set up, so that ownership needs no correction later.
  uid=$(id -u "$FOR_USER")
  if ! bare && [[ -s $PREFIX/image-uid ]]; then uid=$(cat "$PREFIX/image-uid"); fi
  [[ $uid -eq 0 ]] || command=(env "COI_INCUS_CODE_UID=$uid")
  command+=("$BIN_DIR/coi" build --if-changed)
  if [[ -n $DRY ]]; then
    run "${command[@]}"
    return 0
  fi
  printf '+ %s\n' "$(quoted "${command[@]}")" >>"$OUTPUT"
  "${command[@]}" </dev/null 9>&- 2>&1 | tee -a "$OUTPUT" | sed -u 's/^/    /' || code=$?
  printf '+ that ended with %s\n' "$code" >>"$OUTPUT" # what it said has been shown
  [[ $code -eq 0 ]] || failed_step "$code" "${command[@]}"
  printf '%s\n' "$uid" >"$PREFIX/image-uid"
}

# ---- asking, becoming root, the end -----------------------------------------------------------------------

has_terminal() { { : </dev/tty; } 2>/dev/null; }

ask() {
  local answer=''
  printf '%s [Y/n] ' "$1" >/dev/tty
  read -r answer </dev/tty || return 1
  [[ -z $answer || $answer == [yY]* ]]
}

what_is_left() {
  local names
  names=$(missing_packages 2>/dev/null | tr '\n' ' ')
  [[ -z $names ]] || say "  - install packages: ${names% }"
  if bare || ! find_incusd >/dev/null || ! incusd_runs; then say "  - start $(has_systemd && echo "the units incus.socket and incus.service" || echo "lxcfs and incusd")"; fi
  [[ -z $names ]] || say "  - make the storage pool, the bridge $BRIDGE and the default profile's devices, if Incus has none"
  in_group "$FOR_USER" || [[ $FOR_USER == root ]] || say "  - add $FOR_USER to the group $GROUP"
  say "  - put root's sub-ids into /etc/subuid and /etc/subgid, if missing"
  say "  - install coi in $PREFIX/venv and link $BIN_DIR/coi"
  [[ -z $IMAGE ]] || say "  - build the image as root (members of $GROUP can: coi build)"
}

become_root() {
  local names
  names=$(IFS=, && echo "${PASSED[*]},${OURS[*]}")
  if command -v sudo >/dev/null 2>&1 && { sudo -n true 2>/dev/null || { has_terminal && [[ -z ${CI:-} ]]; }; }; then
    say "This needs root: going on with sudo."
    COI_SOURCE=$SOURCE exec sudo --preserve-env="$names,COI_SOURCE" bash -c "$(own_text)" install.sh --user "$FOR_USER" "$@"
  fi
  {
    printf 'Error: this needs root, and sudo is not there or not allowed. Not done, because %s is not root:\n' "$(id -un)"
    if [[ -n $START ]]; then say "  - start lxcfs and incusd"; else what_is_left; fi
    printf 'Hint: as root run: %s --user %s%s\n' "${SOURCE:+$SOURCE/}install.sh" "$FOR_USER" "$(printf ' %q' "$@")"
  } >&2
  exit 1
}

the_end() {
  say ""
  if [[ -n $DRY ]]; then
    say "Nothing was changed (--dry-run)."
    return 0
  fi
  say "coi is ready. Next:"
  if [[ $FOR_USER != root && $FOR_USER != "${SUDO_USER:-$(id -un)}" ]]; then say "  su - $FOR_USER"; fi
  if [[ -n $NEEDS_LOGIN && $FOR_USER == "${SUDO_USER:-$(id -un)}" ]]; then say "  newgrp $GROUP        # this shell does not know of the new group yet"; fi
  [[ -n $IMAGE ]] || say "  coi build"
  say "  cd your-project && coi shell"
  has_systemd || say "After a reboot, start the daemons again with: sudo $PREFIX/install.sh --start"
}

parse() {
  while [[ $# -gt 0 ]]; do
    case $1 in
      --yes | -y) YES=1 ;;
      --dry-run) DRY=1 ;;
      --no-image) IMAGE='' ;;
      --start) START=1 ;;
      --user)
        [[ $# -ge 2 ]] || fail "--user needs a name" "" 2
        FOR_USER=$2
        shift
        ;;
      --user=*) FOR_USER=${1#*=} ;;
      --help | -h) usage && exit 0 ;;
      *) fail "unknown option: $1" "install.sh --help lists them." 2 ;;
    esac
    shift
  done
}

main() {
  set -E
  settings
  trap 'unexpected $? "$BASH_COMMAND"' ERR
  parse "$@"
  [[ -n $DRY || $(id -u) -ne 0 ]] || unset COI_PROBE COI_PROBE_SYSTEMD COI_PROBE_BTRFS COI_PROBE_FREE_GIB COI_ROUTES
  [[ $(uname -s) == Linux ]] || fail "Incus, and so coi, runs on Linux only; this is $(uname -s)"
  find_source
  FOR_USER=${FOR_USER:-${SUDO_USER:-$(id -un)}}
  id -u "$FOR_USER" >/dev/null 2>&1 || fail "there is no user $FOR_USER" "" 2
  detect_host
  if [[ $(id -u) -ne 0 && -z $DRY ]]; then become_root "$@"; fi
  if [[ -z $DRY ]]; then
    HOME=$(getent passwd 0 | cut -d: -f6)
    export HOME
    OUTPUT=$LOG
    (umask 077 && printf -- '---- %s install.sh %s\n' "$(date -u +%FT%TZ)" "$*" >>"$LOG")
    exec 9>/run/coi-install.lock
    flock -w 600 9 || fail "another install.sh has been running for ten minutes" "See $LOG."
  fi
  if [[ -n $START ]]; then
    daemon_step
    kernel_step
    [[ -n $DRY ]] || say "Incus runs."
    return 0
  fi
  if [[ -z $YES && -z $DRY ]]; then
    has_terminal || fail "there is no terminal to ask on" "Run it again with --yes (or --dry-run to see the commands)." 2
    say "On $OS_NAME this will, where missing: install Incus and its tools, make a storage pool and a bridge, let $FOR_USER"
    say "use Incus (that is as good as root on this host), install coi in $PREFIX, and build the image."
    ask "Go on?" || fail "nothing was changed"
  fi
  NEW_MEMBER='' NEEDS_LOGIN=''
  in_group "$FOR_USER" || [[ $FOR_USER == root ]] || NEW_MEMBER=1
  packages_step
  choose_python
  subids_step
  group_step
  daemon_step
  kernel_step
  let_in_step
  incus_step
  firewall_notes
  coi_step
  guard_step
  image_step
  the_end
}

main "$@"
