#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# container.sh FILE NAME [nomem]
#
# Makes the container that the fixtures of procvirt/testdata/host show, captures it into FILE (with
# capture.sh, which stands beside this script) and removes it again. NAME says which host it is.
# Runs as root in a guest of test/vm (busybox will do) or on a machine; works with cgroup v1, v2 and hybrid.
#
# The container: /machine/ct1 below this process's own cgroups, with a pid namespace of its own. At ct1: 256 MiB,
# 128 MiB of swap (v1: 384 MiB with swap), 1.5 CPUs, CPUs 0-1, 8 MiB of 2 MiB pages. At /machine: 512 MiB, 2 CPUs of time.
# It has used some seconds of CPU, holds 40 MiB of anonymous memory (some of it swapped out, where there is swap) and page
# cache of $DATA (default: a new directory in /tmp).
# nomem: the memory controller is not enabled in ct1, only in /machine (v2).
#
# Callers: init; child (of init, same cgroup); below (in ct1/sub); exec (joined by setns, as docker exec does);
# shared (same pid namespace, but in /machine/ct2, as Kubernetes' shareProcessNamespace does); host (this script).
set -eu
[ $# -ge 2 ] || { sed -n '2,/^set -eu/p' "$0" | sed '$d' >&2; exit 2; }
out=$1 name=$2 variant=${3:-}
here=$(cd "$(dirname "$0")" && pwd)
data=${DATA:-$(mktemp -d /tmp/container.XXXXXX)}
work=$(mktemp -d /tmp/container.XXXXXX)
mib=1048576
ends=

# bases prints TYPE DIRECTORY, one a hierarchy: where the cgroups of the container go.
bases() {
  awk -v self="$(cat /proc/self/cgroup)" '
    BEGIN { n = split(self, l, "\n"); for (i = 1; i <= n; i++) { split(l[i], f, ":"); path[f[2]] = f[3] } }
    { for (i = 7; $i != "-"; i++) ; t = $(i+1); s = $(i+3) }
    t == "cgroup2" { p = path[""]; sub(/\/init\.scope$/, "", p); sub(/\/$/, "", p); print "v2", $5 p }
    t == "cgroup" { for (k in path) { o = "," s ","; if (k != "" && index(o, "," k ",")) { p = path[k]; sub(/\/$/, "", p); print "v1", $5 p } } }
  ' /proc/self/mountinfo
}
bases >"$work/bases"

# each FUNC runs FUNC TYPE DIRECTORY for each hierarchy.
each() { while read -r t d; do "$1" "$t" "$d"; done <"$work/bases"; }
# put VALUE FILE writes a control file where there is one.
put() { [ ! -e "$2" ] || echo "$1" >"$2" || { echo "container: $1 > $2 failed" >&2; exit 1; }; }

make_cgroups() {
  d=$2
  for g in machine machine/ct1 machine/ct1/sub machine/ct2; do
    mkdir "$d/$g"
    if [ "$1" = v1 ]; then
      for f in cpuset.cpus cpuset.mems; do [ ! -e "$d/$g/$f" ] || cat "$d/${g%/*}/../$f" >"$d/$g/$f" 2>/dev/null || cat "$d/$f" >"$d/$g/$f"; done
    elif [ "$g" = machine ]; then
      for c in $(cat "$d/machine/cgroup.controllers"); do
        [ "$variant.$c" = nomem.memory ] || put "+$c" "$d/machine/cgroup.subtree_control"
      done
    fi
  done
  m=$d/machine c=$d/machine/ct1
  put $((512 * mib)) "$m/memory.max"; put $((512 * mib)) "$m/memory.limit_in_bytes"
  put $((256 * mib)) "$c/memory.max"; put $((256 * mib)) "$c/memory.limit_in_bytes"
  put $((128 * mib)) "$c/memory.swap.max"; put $((384 * mib)) "$c/memory.memsw.limit_in_bytes"
  put $((8 * mib)) "$c/hugetlb.2MB.max"; put $((8 * mib)) "$c/hugetlb.2MB.limit_in_bytes"
  put '200000 100000' "$m/cpu.max"; put 200000 "$m/cpu.cfs_quota_us"
  put '150000 100000' "$c/cpu.max"; put 150000 "$c/cpu.cfs_quota_us"
  put 0-1 "$c/sub/cpuset.cpus"; put 0-1 "$c/cpuset.cpus"
}
remove_cgroups() {
  for g in ct1/sub ct1 ct2 .; do [ ! -d "$2/machine/$g" ] || rmdir "$2/machine/$g/" 2>/dev/null || :; done
  rmdir "$2/machine" 2>/dev/null || :
}
# enter PID CGROUP moves PID in every hierarchy.
enter() { while read -r t d; do echo "$1" >"$d/machine/$2/cgroup.procs"; done <"$work/bases"; }
# child PID prints the pid of PID's first child, when it has come (Debian's busybox has no pgrep).
child() {
  until cat /proc/[0-9]*/stat 2>/dev/null | awk -v p="$1" '{ pid = $1; sub(/.*\) /, "") } $2 == p { print pid; exit 0 }' | grep .; do
    sleep 0.1
  done
}
await() { until [ -e "$work/$1" ]; do sleep 0.1; done; }
# squeeze swaps out part of the anonymous memory and takes its own limit back.
squeeze() {
  c=$2/machine/ct1
  put $((28 * mib)) "$c/memory.high"; put max "$c/memory.high"
  [ ! -e "$c/memory.limit_in_bytes" ] || { put $((28 * mib)) "$c/memory.limit_in_bytes"; put $((256 * mib)) "$c/memory.limit_in_bytes"; }
}
cleanup() {
  [ -z "$ends" ] || kill -9 $ends 2>/dev/null || :
  wait 2>/dev/null || :
  sleep 0.3
  each remove_cgroups
  rm -rf "$work" "$data"/file*
  [ -n "${DATA:-}" ] || rm -rf "$data"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

cat >"$work/init" <<INIT
await() { until [ -e "$work/\$1" ]; do sleep 0.5; done; }
await go1
sleep 3600 & # the child
(head -c $((40 * mib)) /dev/urandom; : >"$work/anon"; exec sleep 3600) | tail -c $((40 * mib)) >/dev/null &
await go2
timeout 1 sh -c 'while :; do :; done' & spin=\$!
timeout 1 sh -c 'while :; do :; done' || :
dd if=/dev/urandom of=$data/file1 bs=1M count=16 2>/dev/null; sync
dd if=$data/file1 of=/dev/null bs=1M iflag=direct 2>/dev/null || :
dd if=/dev/zero of=$data/file2 bs=1M count=3 2>/dev/null
wait \$spin || :
: >"$work/ready"
wait
INIT

each make_cgroups
unshare -p -f -m --mount-proc sh "$work/init" &
init=$(child $!)
ends=$init # the kernel ends the namespace's others with it
enter "$init" ct1
: >"$work/go1"
await anon
sleep 1
[ "$(wc -l </proc/swaps)" -lt 2 ] || each squeeze
: >"$work/go2"
await ready
inner() { # PROGRAM CGROUP: a process that joins the namespace and goes into CGROUP; prints its pid
  nsenter -t "$init" -p sleep 3600 >/dev/null 2>&1 &
  p=$(child $!); enter "$p" "$2"; echo "$p"
}
exec_pid=$(inner exec ct1) below=$(inner below ct1/sub) shared=$(inner shared ct2)
sleep 1
kid=$(child "$init")
sh "$here/capture.sh" "$name" "$init" "child=$kid" "exec=$exec_pid" "below=$below" "shared=$shared" "host=$$" >"$out"
