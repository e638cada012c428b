#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# dpkg passes "remove", rpm 0; at an upgrade they pass something else.
set -e

case "$1" in
remove | 0) ;;
*) exit 0 ;;
esac

VPROCFS_MOUNT=/var/lib/vprocfs
[ ! -r /etc/default/vprocfs ] || . /etc/default/vprocfs
if [ -d /run/systemd/system ]; then
	# A stop takes the files out of all containers. dpkg forgets at a purge that the
	# unit is enabled.
	systemctl stop vprocfs || true
	[ "$1" != 0 ] || systemctl disable vprocfs || true
	# The descriptors that systemd keeps for the next start.
	systemctl clean --what=fdstore vprocfs || true # systemd 254
fi
# If it does not run under systemd, or the stop has failed.
timeout 60 vprocfs unmount "$VPROCFS_MOUNT" || true
