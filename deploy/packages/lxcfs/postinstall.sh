#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# dpkg passes "configure", rpm 1 for the first installation and 2 for an upgrade.
set -e

case "$1" in
configure | 1 | 2) ;;
*) exit 0 ;;
esac

unit=lxcfs.service
# Whoever has disabled the unit of LXCFS has disabled this one.
if command -v deb-systemd-helper >/dev/null; then
	if deb-systemd-helper --quiet was-enabled $unit; then
		deb-systemd-helper enable $unit >/dev/null
	fi
elif [ "$1" = 1 ] && command -v systemctl >/dev/null; then
	systemctl enable $unit
fi
[ -d /run/systemd/system ] || exit 0

systemctl daemon-reload
pid=$(systemctl show --property MainPID --value $unit)
case $(readlink "/proc/$pid/exe" || true) in
/usr/libexec/vprocfs-lxcfs/*)
	# No reader notices.
	systemctl reload $unit || echo "the old version of vprocfs goes on: see systemctl status $unit" >&2
	;;
*)
	# LXCFS, or nothing. Incus, which requires the unit, is left alone.
	if systemctl is-enabled --quiet $unit || systemctl is-active --quiet $unit; then
		systemctl --job-mode=ignore-requirements restart $unit || echo "vprocfs does not run: see systemctl status $unit" >&2
	fi
	;;
esac
