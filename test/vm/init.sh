#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The guest's init. It makes a machine out of the initramfs, or of the Debian root on the disk, runs /command with its
# output on the second serial line, reports the exit status on the console and powers off. /env holds what the runner chose.
# With SYSTEMD, Debian's systemd makes the machine, and this is a service that comes last.
export PATH=/t:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
. /env
fail() { echo "<1>$TOKEN failed: $*" >/dev/kmsg; poweroff -f; }
command() {
  stty -F /dev/ttyS1 raw -echo
  cd /t
  setsid /command </dev/null >/dev/ttyS1 2>&1
  status=$?
  cd /
  [ -z "$OUT" ] || tar -C /out -cf "$OUT" . || fail "/out does not fit"
  sync
  stty -F /dev/ttyS1 raw # waits until all output has left
  echo "<1>$TOKEN status $status" >/dev/kmsg
  poweroff -f
}
# units are those of a guest that systemd runs. The service survives a soft reboot, with all that it has started in its own
# cgroup (systemd-soft-reboot.service(8)). Nobody logs in, there is no udev to wait for devices with, the kernel's modules
# are loaded, and what is done once after an update was done.
units() { # ETC
  echo 0123456789abcdef0123456789abcdef >"$1/machine-id" # else it asks questions on the console
  touch "$1/.updated" "$1/../var/.updated"
  for u in getty.target timers.target systemd-modules-load.service sysstat.service netavark-dhcp-proxy.service; do
    ln -sf /dev/null "$1/systemd/system/$u"
  done
  ln -sf /usr/lib/systemd/system/multi-user.target "$1/systemd/system/default.target"
  ln -sf ../vm.service "$1/systemd/system/multi-user.target.wants/vm.service"
  cat >"$1/systemd/system/vm.service" <<END
[Unit]
DefaultDependencies=no
After=multi-user.target
SurviveFinalKillSignal=yes
IgnoreOnIsolate=yes
FailureAction=poweroff-force
[Service]
Type=exec
ExecStart=/bin/busybox sh /init command
Delegate=yes
END
}
if [ "$1" = command ]; then
  command
elif [ "$1" != stage2 ]; then
  mount -t devtmpfs dev /dev && mount -t proc proc /proc || poweroff -f
  for m in $MODULES; do insmod /modules/$m.ko || fail "insmod $m"; done
  # On the bare initramfs pivot_root(2) is EINVAL, which runtimes need: make a root that is a mount of its own. A chroot into
  # the Debian root would not do: who enters a mount namespace by setns(2) comes out at the root of the namespace.
  if [ -n "$ROOT" ]; then
    mount -t ext4 -o noatime "$ROOT" /newroot || fail "mount $ROOT"
    cp /init /env /command /newroot && mkdir -p /newroot/t /newroot/out && mount --bind /t /newroot/t || fail "Debian root"
  else
    mount --bind / /newroot
  fi
  mount --move /dev /newroot/dev && mount --move /proc /newroot/proc
  cd /newroot
  mount --move . /
  [ -z "$SYSTEMD" ] || { units etc; exec chroot . /usr/lib/systemd/systemd; }
  # busybox sh has all applets by /proc, also those that Debian's root has no program for.
  exec chroot . /bin/busybox sh /init stage2
fi
cd /
mount -t sysfs sys /sys && mount -t tmpfs -o mode=755 run /run && mount -t tmpfs -o mode=1777 tmp /tmp || fail "mount /sys, /run, /tmp"
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts && mount -t tmpfs -o mode=1777 shm /dev/shm || fail "mount /dev/pts, /dev/shm"
mount -t fusectl fusectl /sys/fs/fuse/connections || fail "mount fusectl"
ln -s /proc/self/fd /dev/fd; ln -s fd/0 /dev/stdin; ln -s fd/1 /dev/stdout; ln -s fd/2 /dev/stderr
ip link set lo up

# PID 1 sits in a child cgroup, as under systemd: the root cgroup lacks files that others have, and a
# container there could not be told from the host.
v2() { # DIRECTORY
  mkdir -p "$1"; mount -t cgroup2 cgroup2 "$1" || fail "mount cgroup2"
  for c in $(cat "$1/cgroup.controllers"); do echo "+$c" >"$1/cgroup.subtree_control" || fail "controller $c"; done
  mkdir "$1/init.scope" && echo 1 >"$1/init.scope/cgroup.procs" || fail "init.scope"
}
v1() { # systemd's layout: two pairs share a hierarchy, with a link for each controller's name
  mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
  for h in cpuset cpu,cpuacct blkio memory devices freezer net_cls,net_prio perf_event hugetlb pids rdma; do
    mkdir /sys/fs/cgroup/$h
    # Not every kernel has every controller of v1.
    mount -t cgroup -o $h cgroup /sys/fs/cgroup/$h 2>/dev/null || { rmdir /sys/fs/cgroup/$h; continue; }
    case $h in *,*) ln -s $h /sys/fs/cgroup/${h%,*}; ln -s $h /sys/fs/cgroup/${h#*,} ;; esac
  done
  [ -d /sys/fs/cgroup/memory ] || fail "this kernel has no memory controller for cgroup v1"
  [ ! -e /sys/fs/cgroup/memory/memory.use_hierarchy ] || echo 1 >/sys/fs/cgroup/memory/memory.use_hierarchy
  mkdir /sys/fs/cgroup/systemd; mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
  mkdir /sys/fs/cgroup/systemd/init.scope; echo 1 >/sys/fs/cgroup/systemd/init.scope/cgroup.procs
}
case $CGROUP in
v1) v1 ;;
v2) v2 /sys/fs/cgroup ;;
hybrid) v1; v2 /sys/fs/cgroup/unified ;;
esac
[ "$SWAP" = 0 ] || { echo $((SWAP * 1048576)) >/sys/block/zram0/disksize && mkswap /dev/zram0 >/dev/null && swapon /dev/zram0; } || fail swap
[ -z "$DISK" ] || mount -t ext4 "$DISK" /data || fail "mount $DISK"

command
