#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# dpkg passes "remove", rpm 0; at an upgrade they pass something else.
set -e

case "$1" in
remove | 0) ;;
*) exit 0 ;;
esac

if [ -d /run/systemd/system ]; then
	# A stop takes the files out of all containers. Incus, which requires the unit, is
	# left alone.
	systemctl --job-mode=ignore-requirements stop lxcfs.service || true
	[ "$1" != 0 ] || systemctl disable lxcfs.service || true
	systemctl clean --what=fdstore lxcfs.service || true # systemd 254
fi
# If it does not run under systemd, or the stop has failed.
timeout 60 /usr/libexec/vprocfs-lxcfs/vprocfs unmount /var/lib/lxcfs || true
