# Distribution packages, in one transaction. COI_PACKAGES, COI_OPTIONAL
apt-get update -q
optional=''
for package in $COI_OPTIONAL; do
    if apt-cache show "$package" > /dev/null 2>&1; then optional="$optional $package"; fi
done
# shellcheck disable=SC2086 # lists of words
apt-get install -qy --no-install-recommends $COI_PACKAGES $optional
docker --version
gh --version
git --version
tmux -V
