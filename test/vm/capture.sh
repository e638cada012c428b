#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# capture.sh NAME INIT [ROLE=PID...] > NAME.txtar
#
# Writes to stdout a txtar archive of all that vprocfs reads of this host when a process of the
# container whose init has the pid INIT opens a file. NAME is one line that says what runs where.
# A ROLE=PID is one more caller to capture (sh=4711): any process, inside or outside the container.
# Pids are those of the pid namespace that /proc shows here. Needs root, a POSIX sh and awk; busybox will do.
#
# Files of the archive are named relative to /. A file that is not there, or that cannot be read
# (pressure files answer EOPNOTSUPP when PSI is off), is left out. /proc/INIT and /proc/PID are read for
# `stat` and `cgroup`; of each cgroup that one of these processes is in, and of all its ancestors up to the
# mount point, the files listed below. fixture.json says which pid is which and when it was.
set -eu
[ $# -ge 2 ] || { sed -n '2,/^set -eu/p' "$0" | sed '$d' >&2; exit 2; }
name=$1 init=$2
shift 2
[ -r "/proc/$init/cgroup" ] || { echo "capture: no process $init" >&2; exit 1; }

# One pattern a word, for each type of hierarchy. On v1 the types of controllers share one list: file
# names say which controller they are of.
v2files='cgroup.controllers cgroup.subtree_control cgroup.type cgroup.events cpu.max cpu.weight cpu.stat cpuset.cpus
 cpuset.cpus.effective memory.current memory.high memory.max memory.peak memory.stat memory.swap.current memory.swap.max
 memory.zswap.current memory.zswap.max io.stat hugetlb.*.max hugetlb.*.current
 cpu.pressure memory.pressure io.pressure irq.pressure memory.events'
v1files='cpu.cfs_quota_us cpu.cfs_period_us cpu.shares cpu.stat cpuacct.usage cpuacct.usage_all cpuacct.usage_percpu
 cpuacct.stat cpuset.cpus cpuset.effective_cpus memory.limit_in_bytes memory.usage_in_bytes memory.stat
 memory.memsw.limit_in_bytes memory.memsw.usage_in_bytes memory.swappiness memory.use_hierarchy memory.oom_control
 blkio.throttle.io_service_bytes blkio.throttle.io_serviced blkio.throttle.io_service_bytes_recursive
 blkio.throttle.io_serviced_recursive hugetlb.*.limit_in_bytes hugetlb.*.usage_in_bytes'
hostfiles='proc/cpuinfo proc/diskstats proc/loadavg proc/meminfo proc/slabinfo proc/stat proc/swaps proc/version proc/cgroups
 proc/pressure/cpu proc/pressure/memory proc/pressure/io proc/pressure/irq proc/vmstat proc/devices proc/self/mountinfo proc/1/cgroup proc/1/stat
 sys/devices/system/cpu/online sys/devices/system/cpu/offline sys/devices/system/cpu/possible
 sys/devices/system/cpu/present sys/devices/system/cpu/isolated sys/kernel/mm/transparent_hugepage/hpage_pmd_size'

# file PATH [CONTENT] puts /PATH into the archive. The x keeps the shell from eating trailing newlines.
file() {
  if [ $# -eq 1 ]; then
    c=$(cat "/$1" 2>/dev/null && echo x) || return 0
  else
    c=$2'
x'
  fi
  c=${c%x}
  printf -- '-- %s --\n%s' "$1" "$c"
  case $c in '' | *'
') ;; *) echo ;; esac
}

# mounts prints TYPE CONTROLLERS ROOT MOUNTPOINT for each cgroup mount; of v1 CONTROLLERS are as in
# /proc/PID/cgroup, of v2 it is "-".
mounts() {
  awk '{ for (i = 7; $i != "-"; i++) ; t = $(i+1); n = split($(i+3), o, ",") }
    t == "cgroup2" { print "v2", "-", $4, $5 }
    t == "cgroup" { s = ""; for (k = 1; k <= n; k++) if (o[k] !~ /^(rw|ro|xattr|noprefix|clone_children|release_agent=.*)$/) s = s "," o[k]
      print "v1", substr(s, 2), $4, $5 }' /proc/self/mountinfo
}

# dirs PID prints TYPE DIRECTORY for each cgroup of PID and each ancestor that a mount shows.
dirs() {
  while IFS=: read -r id ctl path; do
    mounts | while read -r type mctl root mnt; do
      case $id:$type:$mctl in "0:v2:-" | "$id:v1:$ctl") ;; *) continue ;; esac
      [ "$root" = / ] || path=${path#"$root"}
      path=${path%/}
      while echo "$type $mnt$path"; [ -n "$path" ]; do path=${path%/*}; done
      break
    done
  done <"/proc/$1/cgroup"
}

now=$(cat /proc/uptime) # the reference for everything below: first
pids=$init callers= roles=
for r in "$@"; do
  pids="$pids ${r#*=}" callers="$callers, ${r#*=}" roles="$roles, \"${r%%=*}\": ${r#*=}"
done
list=$(for p in $pids; do dirs "$p"; done | sort -u)
types=$(mounts | awk '$1 == "v1" && $2 !~ /^name=/ { v1 = 1 } $1 == "v2" { v2 = 1 } END { print v1 ? (v2 ? "hybrid" : "v1") : "v2" }')
up=${now%% *}

echo "$name"
echo "Kernel $(uname -r) $(uname -m), cgroup layout $types, captured $(date -u +%Y-%m-%d) by test/vm/capture.sh; see ../README.md."
echo
file fixture.json "{\"kernel\": \"$(uname -r)\", \"layout\": \"$types\", \"init\": $init, \"callers\": [$init$callers],
 \"roles\": {\"init\": $init$roles},
 \"now_boottime_ns\": $(echo "$up" | awk '{ sub(/\./, ""); print $1 "0000000" }'), \"host_uptime\": $up}"
file proc/uptime "$now"
for f in $hostfiles; do file "$f"; done
for p in $pids; do
  for f in cgroup stat; do file "proc/$p/$f"; done
done
echo "$list" | while read -r type d; do
  case $type in v1) pat=$v1files ;; v2) pat=$v2files ;; esac
  for g in $pat; do
    for f in "$d"/$g; do file "${f#/}"; done
  done
done
