#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# compare-guest.sh LXCFS VPROCFS: serves one container with both, and prints what each shows for each file
# next to what the control group and the host say. compare.sh starts it. It needs root, two CPUs, and a POSIX
# sh with unshare and awk; busybox will do. LXCFS and VPROCFS are command lines. The container writes to /data,
# if there is one, so that a disk has something to count.
set -eu
lxcfs=$1 vprocfs=$2
work=$(mktemp -d)
mkdir "$work/lxcfs" "$work/vprocfs" "$work/shm"

# The group: 256 MiB, 64 MiB of swap, one CPU of quota, and the cpuset of two CPUs.
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  version=v2 cpuacct='' blkio='' dirs=/sys/fs/cgroup/compare.$$
  mkdir "$dirs"
  mem=$dirs cpu=$dirs set=$dirs
  echo 256M > $mem/memory.max
  echo 64M > $mem/memory.swap.max
  echo '100000 100000' > $cpu/cpu.max
  echo 0-1 > $set/cpuset.cpus
else
  version=v1 dirs=
  # Below the group that we are in: the root may be somebody else's.
  own() { awk -F: -v c="$1" '{ n = split($2, a, ","); for (i = 1; i <= n; i++) if (a[i] == c) print $3 }' /proc/self/cgroup; }
  for c in memory cpu cpuacct cpuset blkio; do
    d=/sys/fs/cgroup/$c$(own $c)/compare.$$
    [ -d "$d" ] || mkdir "$d"
    dirs="$dirs $d"
    eval "$c=$d"
  done
  mem=$memory set=$cpuset
  echo 268435456 > $mem/memory.limit_in_bytes
  echo 335544320 > $mem/memory.memsw.limit_in_bytes || echo "this kernel does not count swap"
  echo 100000 > $cpu/cpu.cfs_period_us
  echo 100000 > $cpu/cpu.cfs_quota_us
  cat "$set/../cpuset.mems" > $set/cpuset.mems
  echo 0-1 > $set/cpuset.cpus
fi
# v1 has no pressure of its own; a v2 tree beside it may.
unified=/sys/fs/cgroup/unified
if [ $version = v1 ] && [ -e $unified/cgroup.procs ]; then
  psi=$unified$(awk -F: '$1 == 0 { print $3 }' /proc/self/cgroup)/compare.$$
  mkdir "$psi"
  dirs="$dirs $psi"
else
  psi=$mem
fi
export mem cpu set cpuacct blkio psi

$lxcfs "$work/lxcfs" > "$work/lxcfs.log" 2>&1 &
one=$!
$vprocfs "$work/vprocfs" > "$work/vprocfs.log" 2>&1 &
two=$!
trap 'kill $one $two; wait; rmdir $dirs; rm -r "$work"' EXIT
for m in lxcfs vprocfs; do
  tries=0
  until grep -q " $work/$m " /proc/self/mounts; do
    tries=$((tries + 1))
    [ $tries -lt 300 ] || { cat "$work/$m.log"; exit 1; }
    sleep 0.1
  done
done

echo "kernel $(uname -r), cgroup $version"
cat > "$work/container" <<'END'
m=$1
now() { cut -d' ' -f1 "${1:-/proc/uptime}"; }
busy() { awk '/^cpu / { print ($2 + $3 + $4 + $7 + $8) / 100 }' "$1"; }
line() { awk '{ printf "%s; ", $0 } END { print "" }'; }
group() { # what the control group says
  echo "== the group, $(echo "$(now) $began" | awk '{ print $1 - $2 }') s after its container began"
  for f in "$cpu/cpu.stat" "$cpuacct/cpuacct.usage" "$mem/memory.current" "$mem/memory.usage_in_bytes" "$mem/memory.swap.current" \
    "$mem/memory.memsw.usage_in_bytes" "$mem/io.stat" "$set/cpuset.cpus.effective" "$set/cpuset.effective_cpus" \
    "$blkio/blkio.throttle.io_service_bytes_recursive"; do
    [ ! -e "$f" ] || echo "$(basename "$f"): $(grep -v ' 0$' "$f" | line)"
  done
  grep -E '^(total_)?(anon|file|cache|rss|file_mapped|mapped_file|file_dirty|dirty|shmem|slab|pagetables|kernel_stack|zswap|active_anon|inactive_anon|active_file|inactive_file) ' "$mem/memory.stat" | line
  for f in cpu memory io; do [ ! -e "$psi/$f.pressure" ] || echo "$f.pressure: $(head -n 1 "$psi/$f.pressure")"; done
}
began=$(now)
# LXCFS counts CPU time and load from its first read on.
for d in lxcfs vprocfs; do cat $m/$d/proc/stat $m/$d/proc/uptime $m/$d/proc/loadavg > /dev/null; done
data=$m
[ ! -d /data ] || data=/data
head -c 20000000 /dev/urandom > $data/compare.$$
sync
mount -t tmpfs none $m/shm
head -c 40000000 /dev/urandom > $m/shm/file
if [ -e $mem/memory.reclaim ]; then
  tries=0
  while [ "$(cat $mem/memory.swap.current)" -lt 8000000 ] && [ $tries -lt 8 ]; do
    tries=$((tries + 1))
    echo 30000000 > $mem/memory.reclaim 2>/dev/null || :
  done
fi
cp /bin/busybox $data/busybox.$$ # a program whose pages are the container's
timeout 20 sh -c 'while :; do :; done' &
timeout 20 sh -c 'while :; do :; done' &
$data/busybox.$$ sleep 60 &
sleep 18
head -c 4000000 /dev/urandom > $data/dirty.$$ # dirty
group
for d in lxcfs vprocfs; do
  p=$m/$d/proc
  echo "== $d"
  echo "uptime: $(cat $p/uptime) (host: $(cat /proc/uptime))"
  echo "stat: rows $(grep -c '^cpu[0-9]' $p/stat), user+nice+system+irq $(busy $p/stat) s (host: $(busy /proc/stat) s), $(grep procs_r $p/stat), $(grep btime $p/stat) (host: $(grep btime /proc/stat))"
  grep -E '^(MemTotal|MemFree|MemAvailable|Buffers|Cached|Active|SwapTotal|SwapFree|AnonPages|Mapped|Dirty|Shmem|Slab|PageTables|KernelStack|Zswap|Zswapped):' $p/meminfo | awk '{ printf "%s %s; ", $1, $2 } END { print "" }'
  echo "cpuinfo: $(grep -c '^processor' $p/cpuinfo) CPUs"
  echo "swaps: $(tail -n +2 $p/swaps | line)"
  echo "diskstats: $(wc -l < $p/diskstats) lines (host: $(wc -l < /proc/diskstats)): $(grep -vE ' (loop|ram|zram)' $p/diskstats | head -2 | line)"
  echo "slabinfo: mode $(stat -c %a $p/slabinfo 2>&1), $(wc -l < $p/slabinfo 2>&1) lines (host: $(wc -l < /proc/slabinfo))"
  echo "loadavg: $(cat $p/loadavg 2>&1) (host: $(cat /proc/loadavg); in the container: $(ls -d /proc/[0-9]* | wc -l) processes)"
  for f in cpu memory io; do echo "pressure/$f: $(head -n 1 $p/pressure/$f 2>&1) (host: $(head -n 1 /proc/pressure/$f 2>&1))"; done
  c=$m/$d/sys/devices/system/cpu
  echo "cpu/online: $(cat $c/online 2>&1) possible: $(cat $c/possible 2>&1) present: $(cat $c/present 2>&1) offline: $(cat $c/offline 2>&1), cpuN: $(ls -d $c/cpu[0-9]* 2>/dev/null | wc -l)"
done
echo "== the host"
grep -E '^(Mapped|Dirty|Slab|PageTables|KernelStack|SwapTotal|SwapFree|Zswap):' /proc/meminfo | awk '{ printf "%s %s; ", $1, $2 } END { print "" }'
group
rm -f $data/compare.$$ $data/dirty.$$ $data/busybox.$$
END
# A shell of its own joins the groups: this one must be able to remove them.
sh -c 'for d in '"$dirs"'; do echo $$ > $d/cgroup.procs; done; exec unshare -p -f -m --mount-proc sh "$@"' sh "$work/container" "$work"
