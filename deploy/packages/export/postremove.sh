#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# dpkg passes "remove", then perhaps "purge"; rpm passes 0. At an upgrade they pass
# something else.
set -e

case "$1" in
remove | purge | 0) ;;
*) exit 0 ;;
esac

if [ "$1" != remove ]; then
	rm -f /etc/systemd/system/*.wants/vprocfs-export.service
	# A group that somebody was put into stays. No file belongs to it.
	case "$(getent group vprocfs || true)" in
	vprocfs:*:) groupdel vprocfs || true ;;
	esac
fi
[ ! -d /run/systemd/system ] || systemctl daemon-reload
