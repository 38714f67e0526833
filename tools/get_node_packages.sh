#!/bin/sh
# Installs, on Debian and as root, the programs that make container images and run a one-node cluster; where that cannot
# be done it says which are missing. Nothing happens when all are there.
set -eu

# Program, and the Debian package that has it.
needed='containerd containerd
ctr containerd
runc runc
/usr/lib/cni/bridge containernetworking-plugins
nft nftables
ip iproute2
buildah buildah
mmdebstrap mmdebstrap
openssl openssl'

PATH=$PATH:/usr/sbin:/sbin
programs='' packages=''
while read -r program package; do
  command -v "$program" >/dev/null 2>&1 && continue
  programs="$programs $program"
  case " $packages " in *" $package "*) ;; *) packages="$packages $package" ;; esac
done <<EOF
$needed
EOF
[ -n "$programs" ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "get_node_packages: missing:$programs; install them (Debian: apt-get install --no-install-recommends$packages)" >&2
  exit 1
fi
echo "get_node_packages: installing$packages"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 - a list of names
apt-get install -y -qq --no-install-recommends $packages >/dev/null
