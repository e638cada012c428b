#!/bin/sh
# dpkg passes "configure" and the old version, if there is one; rpm passes 1 for the
# first installation and 2 for an upgrade.
set -e

case "$1 $2" in
"configure " | "1 ") first=yes ;;
configure* | 2*) first=no ;;
*) exit 0 ;;
esac
[ -d /run/systemd/system ] || exit 0

systemctl daemon-reload
if [ $first = yes ]; then
	systemctl enable --now vprocfs || echo "vprocfs does not run: see systemctl status vprocfs" >&2
elif systemctl is-active --quiet vprocfs; then
	# `vprocfs upgrade`: no reader notices.
	systemctl reload vprocfs || echo "the old version of vprocfs goes on: see systemctl status vprocfs" >&2
fi
