#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# dpkg passes "configure", rpm 1 for the first installation and 2 for an upgrade. The unit
# is not enabled: it opens a port.
set -e

case "$1" in
configure | 1 | 2) ;;
*) exit 0 ;;
esac

# The group whose members may ask the daemon.
if command -v systemd-sysusers >/dev/null; then
	systemd-sysusers vprocfs-export.conf
elif ! getent group vprocfs >/dev/null; then
	groupadd --system vprocfs
fi
[ -d /run/systemd/system ] || exit 0

systemctl daemon-reload
systemctl try-restart vprocfs-export || echo "vprocfs-export does not run: see systemctl status vprocfs-export" >&2
