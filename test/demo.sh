#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# demo.sh VPROCFS: shows the numbers of the host, and of a container with 256 MiB
# and one CPU, side by side. It needs sh, awk and timeout; free, top and uptime are
# shown too if they are installed.
set -eu
vprocfs=$1

# What one side sees, a line "NAME|VALUE" each. Only /proc is read. Two seconds by the
# clock, one CPU is kept busy: all of the container's time, and half of that of a host
# with two CPUs.
look='
awk "{ printf \"uptime|%d s\n\", \$1 }" /proc/uptime
awk "/^(MemTotal|MemFree|MemAvailable|Cached|SwapTotal):/ { printf \"%s|%d MiB\n\", substr(\$1, 1, length(\$1) - 1), \$2 / 1024 }" /proc/meminfo
awk "/^cpu[0-9]/ { n++ } END { printf \"CPUs in /proc/stat|%d\n\", n }" /proc/stat
row() { awk "/^cpu / { print \$2 + \$3 + \$4, \$5 }" /proc/stat; }
set -- $(row)
timeout 2 sh -c "while :; do :; done" || true
set -- "$@" $(row)
echo "$@" | awk "{ b = \$3 - \$1; i = \$4 - \$2; printf \"busy while one CPU is burnt|%d %%\n\", b + i ? 100 * b / (b + i) + 0.5 : 0 }"
'
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
sh -c "$look" >"$tmp/host"
"$vprocfs" run --memory 256M --cpus 1 -- sh -c "$look" >"$tmp/container"

awk -F'|' '
	FNR == NR { host[$1] = $2; next }
	FNR == 1  { printf "%-28s %14s %14s\n", "what /proc says", "host", "container" }
	          { printf "%-28s %14s %14s\n", $1, host[$1], $2 }
' "$tmp/host" "$tmp/container"

for tool in 'free -m' 'uptime' 'top -b -n1'; do
	command -v "${tool%% *}" >/dev/null || continue
	printf '\n%s, in the container:\n' "$tool"
	"$vprocfs" run --memory 256M --cpus 1 -- sh -c "sleep 1; $tool | head -5"
done
