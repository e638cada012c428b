#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# install.sh GROUP...: installs the Debian packages of these groups that are
# missing, and says so. Nothing is done, and no network is needed, if all are there.
# No service that comes with a package is started.
set -eu

# A line for each group: COMMAND:PACKAGE or FILE:PACKAGE ...
packages() {
	case $1 in
	demo) echo free:procps top:procps awk:mawk ;;
	tests) echo gcc:gcc free:procps awk:mawk busybox:busybox-static strace:strace unshare:util-linux htop:htop mpstat:sysstat \
		python3:python3 node:nodejs git:git tar:tar runc:runc crun:crun podman:podman lxcfs:lxcfs \
		java:default-jre-headless atop:atop prometheus-node-exporter:prometheus-node-exporter numactl:numactl \
		lstopo-no-graphics:hwloc-nox /usr/lib/python3/dist-packages/psutil:python3-psutil \
		zsh:zsh fish:fish groff:groff-base systemd-analyze:systemd setpriv:util-linux ip:iproute2 tmux:tmux ;;
	guests) echo qemu-system-x86_64:qemu-system-x86 busybox:busybox-static xz:xz-utils mmdebstrap:mmdebstrap mkfs.ext4:e2fsprogs ;;
	bench) echo gcc:gcc strace:strace lxcfs:lxcfs ;;
	race) echo gcc:gcc ;;
	*) echo "install.sh: no such group: $1" >&2; exit 2 ;;
	esac
}

PATH=$PATH:/usr/sbin:/sbin
missing=
for group in "$@"; do
	for pair in $(packages "$group"); do
		command -v "${pair%%:*}" >/dev/null || [ -e "${pair%%:*}" ] || missing="$missing ${pair#*:}"
	done
done
case " $missing " in *" gcc "*) missing="$missing libc6-dev" ;; esac
missing=$(echo "$missing" | tr ' ' '\n' | sort -u | sed '/^$/d' | paste -sd ' ')
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "these Debian packages, or what your system has in their place, are missing: $missing" >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "these Debian packages are missing; run this as root to have them installed: $missing" >&2
	exit 1
fi
echo "installing Debian packages: $missing"

# lxcfs and podman come with services. Exit status 101 of this program forbids to
# start them (invoke-rc.d(8)).
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	trap 'exit 1' HUP INT TERM
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod +x "$policy"
fi
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # a list of names
if ! { apt-get -q update && apt-get -q install -y --no-install-recommends $missing; } </dev/null >"$log" 2>&1; then
	cat "$log" >&2
	rm -f "$log"
	echo "apt-get could not install: $missing" >&2
	exit 1
fi
rm -f "$log"
