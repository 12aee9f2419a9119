# Distribution packages, in one transaction. COI_PACKAGES
apt-get update -q
# shellcheck disable=SC2086 # a list of words
apt-get install -qy $COI_PACKAGES
