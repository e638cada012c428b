#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# dpkg passes "configure" and the version that was configured before, if any, also if it
# was removed since; rpm passes 1 for the first installation and 2 for an upgrade.
set -e

case "$1 $2" in
"configure " | "1 ") first=yes ;;
configure* | 2*) first=no ;;
*) exit 0 ;;
esac
[ -d /run/systemd/system ] || exit 0

systemctl daemon-reload
if systemctl is-active --quiet vprocfs; then
	# `vprocfs upgrade`: no reader notices.
	systemctl reload vprocfs || echo "the old version of vprocfs goes on: see systemctl status vprocfs" >&2
	exit 0
fi
[ $first = no ] || systemctl enable vprocfs
# A unit that the administrator has disabled stays as it is.
if systemctl is-enabled --quiet vprocfs; then
	systemctl start vprocfs || echo "vprocfs does not run: see systemctl status vprocfs" >&2
fi
