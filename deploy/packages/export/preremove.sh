#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# dpkg passes "remove", rpm 0; at an upgrade they pass something else.
set -e

case "$1" in
remove | 0) ;;
*) exit 0 ;;
esac

[ -d /run/systemd/system ] || exit 0
systemctl stop vprocfs-export || true
# dpkg forgets at a purge that the unit is enabled.
[ "$1" != 0 ] || systemctl disable vprocfs-export || true
