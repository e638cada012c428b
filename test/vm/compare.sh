#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# compare.sh v1|v2: prints what LXCFS and vprocfs show one container, file by file, next to what its control
# group says: the comparison in docs/replacing-lxcfs.md comes from there.
#
# v1 compares on this machine, as root, with the lxcfs of Debian's package that is installed. v2 compares in a
# guest (README.md) with Debian's kernel of SUITE (default trixie) and the lxcfs of LXCFS_SUITE (default forky:
# 7.0.0), which is fetched with its libraries by an apt with a state of its own; nothing is installed.
set -eu
cd "$(dirname "$0")/../.."
make -s build
case ${1:-} in
v1) exec sh test/vm/compare-guest.sh "lxcfs -l --enable-cfs --enable-pidfd -p /run/lxcfs-compare.pid" "build/vprocfs serve" ;;
v2) ;;
*) echo "usage: compare.sh v1|v2" >&2; exit 2 ;;
esac

suite=${LXCFS_SUITE:-forky}
dir=$PWD/build/vm/lxcfs-$suite
if [ ! -d "$dir" ]; then
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 '/debian/*$')
  tmp=$(mktemp -d)
  trap 'rm -rf "$tmp"' EXIT
  mkdir -p "$tmp/lists/partial" "$tmp/cache/archives/partial" "$tmp/none" "$tmp/debs" "$tmp/root"
  : > "$tmp/status"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" > "$tmp/sources.list"
  apt() {
    (cd "$tmp/debs" && apt-get -qq -oDir::State="$tmp" -oDir::State::lists="$tmp/lists" -oDir::State::status="$tmp/status" \
      -oDir::Cache="$tmp/cache" -oDir::Etc::sourcelist="$tmp/sources.list" -oDir::Etc::sourceparts="$tmp/none" \
      -oDir::Etc::preferencesparts="$tmp/none" -oAPT::Sandbox::User=root -oAcquire::Languages=none "$@")
  }
  apt update
  apt download lxcfs libfuse3-4 libc6 libgcc-s1
  for deb in "$tmp"/debs/*.deb; do dpkg-deb -x "$deb" "$tmp/root"; done
  lib=$tmp/root/usr/lib/x86_64-linux-gnu
  mkdir -p build/vm "$tmp/out"
  cp -L "$tmp/root/usr/bin/lxcfs" "$lib/lxcfs/liblxcfs.so" "$lib/libfuse3.so.4" "$lib/libc.so.6" "$lib/ld-linux-x86-64.so.2" "$lib/libgcc_s.so.1" "$tmp/out/"
  ls "$tmp/debs" > "$tmp/out/packages"
  mv "$tmp/out" "$dir"
fi
cat "$dir/packages"
# As an archive: the runner refuses programs that are not static, and these bring their libraries.
tar -C "$dir/.." -cf "$dir.tar" "$(basename "$dir")"
truncate -s 128M build/vm/compare.ext4
mke2fs -qF -t ext4 build/vm/compare.ext4
exec go run ./test/vm -suite "${SUITE:-trixie}" -cgroup v2 -swap 256 -timeout 10m -disk build/vm/compare.ext4 ${VM_FLAGS:-} -file "$dir.tar" -file build/vprocfs -file test/vm/compare-guest.sh -- \
  sh -c "mkdir -p /run; cd /t; tar xf lxcfs-$suite.tar; d=/t/lxcfs-$suite
    sh compare-guest.sh \"\$d/ld-linux-x86-64.so.2 --library-path \$d \$d/lxcfs -l --enable-cfs\" '/t/vprocfs serve'"
