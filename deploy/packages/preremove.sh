#!/bin/sh
# dpkg passes "remove", rpm 0; at an upgrade they pass something else.
set -e

case "$1" in
remove | 0) ;;
*) exit 0 ;;
esac

VPROCFS_MOUNT=/var/lib/vprocfs
[ ! -r /etc/default/vprocfs ] || . /etc/default/vprocfs
if [ -d /run/systemd/system ]; then
	systemctl disable --now vprocfs || true
	# The descriptors that systemd keeps for the next start: without them the mount is dead.
	systemctl clean --what=fdstore vprocfs || true # systemd 254
fi
if mountpoint -q "$VPROCFS_MOUNT" || grep -q " $VPROCFS_MOUNT fuse.vprocfs " /proc/mounts; then
	umount -l "$VPROCFS_MOUNT" || true
fi
# Containers that run show the kernel's files from now on.
timeout 60 vprocfs heal --remove || true
