#!/bin/sh
# compare-guest.sh LXCFS VPROCFS: serves one container with both, and prints what each shows for each file
# next to what the control group says. compare.sh starts it. It needs root, two CPUs, and a POSIX sh with
# unshare and awk; busybox will do. LXCFS and VPROCFS are command lines.
set -eu
lxcfs=$1 vprocfs=$2
work=$(mktemp -d)
mkdir "$work/lxcfs" "$work/vprocfs"

# The group: 256 MiB, 64 MiB of swap, one CPU of quota, and the cpuset of two CPUs.
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  version=v2 dirs=/sys/fs/cgroup/compare.$$
  mkdir "$dirs"
  mem=$dirs cpu=$dirs set=$dirs
  export USED="awk '/^usage_usec/ { print \$2 / 1e6 }' $dirs/cpu.stat"
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
  export USED="awk '{ print \$1 / 1e9 }' $cpuacct/cpuacct.usage"
  echo 268435456 > $mem/memory.limit_in_bytes
  echo 335544320 > $mem/memory.memsw.limit_in_bytes || echo "this kernel does not count swap"
  echo 100000 > $cpu/cpu.cfs_period_us
  echo 100000 > $cpu/cpu.cfs_quota_us
  cat "$set/../cpuset.mems" > $set/cpuset.mems
  echo 0-1 > $set/cpuset.cpus
fi

$lxcfs "$work/lxcfs" > "$work/lxcfs.log" 2>&1 &
one=$!
$vprocfs "$work/vprocfs" > "$work/vprocfs.log" 2>&1 &
two=$!
trap 'kill $one $two; wait; rmdir $dirs; rm -r "$work"' EXIT
for m in lxcfs vprocfs; do
  tries=0
  until grep -q " $work/$m " /proc/self/mounts; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || { cat "$work/$m.log"; exit 1; }
    sleep 0.1
  done
done

echo "kernel $(uname -r), cgroup $version"
cat > "$work/container" <<'END'
m=$1
burn() { i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done; }
# LXCFS counts CPU time from its first read on.
for d in lxcfs vprocfs; do cat $m/$d/proc/stat $m/$d/proc/uptime > /dev/null; done
head -c 20000000 /dev/urandom > $m/data
sync
burn & burn; wait
head -c 4000000 /dev/urandom > $m/data # dirty
for d in lxcfs vprocfs; do
  p=$m/$d/proc
  echo "== $d"
  echo "uptime: $(cat $p/uptime) (host: $(cat /proc/uptime))"
  echo "stat: rows $(grep -c '^cpu[0-9]' $p/stat), user+nice+system+irq $(awk '/^cpu / { print ($2 + $3 + $4 + $7 + $8) / 100 }' $p/stat) s (group: $(eval "$USED") s, host: $(awk '/^cpu / { print ($2 + $3 + $4 + $7 + $8) / 100 }' /proc/stat) s)"
  grep -E '^(MemTotal|MemFree|MemAvailable|Cached|SwapTotal|SwapFree|AnonPages|Mapped|Dirty|Shmem|Slab|PageTables|KernelStack|Zswap|AnonHugePages):' $p/meminfo | awk '{ printf "%s %s; ", $1, $2 } END { print "" }'
  echo "cpuinfo: $(grep -c '^processor' $p/cpuinfo) CPUs"
  echo "swaps: $(tail -n +2 $p/swaps | tr '\t\n' '  ')"
  echo "diskstats: $(wc -l < $p/diskstats) lines (host: $(wc -l < /proc/diskstats)): $(grep -vE ' (loop|ram|zram)' $p/diskstats | head -2 | tr '\n' ';')"
  echo "slabinfo: mode $(stat -c %a $p/slabinfo 2>&1), $(wc -l < $p/slabinfo 2>&1) lines (host: $(wc -l < /proc/slabinfo))"
  echo "loadavg: $(cat $p/loadavg 2>&1) (host: $(cat /proc/loadavg))"
  for f in cpu memory io; do echo "pressure/$f: $(tail -n 1 $p/pressure/$f 2>&1) (host: $(tail -n 1 /proc/pressure/$f 2>&1))"; done
  c=$m/$d/sys/devices/system/cpu
  echo "cpu/online: $(cat $c/online 2>&1) possible: $(cat $c/possible 2>&1) present: $(cat $c/present 2>&1), cpuN: $(ls -d $c/cpu[0-9]* 2>/dev/null | wc -l)"
done
END
for d in $dirs; do echo $$ > "$d/cgroup.procs"; done
unshare -p -f -m --mount-proc sh "$work/container" "$work"
root=/sys/fs/cgroup
for d in $dirs; do
  case $version in v1) root=$(dirname "$d") ;; esac
  echo $$ > "$root/cgroup.procs" 2>/dev/null || echo $$ > "$root/init.scope/cgroup.procs"
done
echo "== the group"
for f in "$cpu/cpu.max" "$mem/memory.current" "$mem/memory.usage_in_bytes" "$mem/memory.swap.current" "$mem/memory.memsw.usage_in_bytes" \
  "$mem/io.stat" "$mem/cpu.pressure" "$mem/io.pressure" "${cpuacct:-none}/cpuacct.usage" "$set/cpuset.cpus.effective" "$set/cpuset.effective_cpus" \
  "${blkio:-none}/blkio.throttle.io_service_bytes_recursive"; do
  [ ! -e "$f" ] || echo "$(basename "$f"): $(tr '\n' ';' < "$f")"
done
[ $version = v1 ] || head -n 3 "$cpu/cpu.stat" | tr '\n' ';'
grep -E '^(total_)?(anon|file|cache|rss|file_mapped|mapped_file|file_dirty|dirty|shmem|slab|pagetables|kernel_stack|anon_thp) ' "$mem/memory.stat" | tr '\n' ';'
echo
