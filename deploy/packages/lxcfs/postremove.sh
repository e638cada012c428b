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

[ ! -d /run/systemd/system ] || systemctl daemon-reload
# The package lxcfs may be back.
[ "$1" != purge ] || [ -e /usr/lib/systemd/system/lxcfs.service ] || [ -e /lib/systemd/system/lxcfs.service ] ||
	! command -v deb-systemd-helper >/dev/null || deb-systemd-helper purge lxcfs.service >/dev/null
[ -e /usr/bin/lxcfs ] || rmdir /var/lib/lxcfs 2>/dev/null || true
