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

[ "$1" != purge ] || rm -f /etc/systemd/system/*.wants/vprocfs.service
[ ! -d /run/systemd/system ] || systemctl daemon-reload
rmdir /var/lib/vprocfs 2>/dev/null || true
