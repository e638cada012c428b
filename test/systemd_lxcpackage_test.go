//go:build systemd

package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const (
	lxcfsUnit   = "lxcfs.service"
	lxcfsBinary = "/usr/libexec/vprocfs-lxcfs/vprocfs"
)

// apt runs apt-get install for a package in a file.
func apt(t *testing.T, file string) {
	t.Helper()
	cmd := exec.Command("apt-get", "install", "-y", file)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s\n%s", cmd, err, out, journal(t, lxcfsUnit))
	}
}

// repack makes a deb of an installed package: a guest has no mirror to get it from again.
func repack(t *testing.T, name string) (deb string) {
	t.Helper()
	dir := t.TempDir()
	deb = filepath.Join(dir, name+".deb")
	out, err := exec.Command("sh", "-euc", `
		cd "$1"; mkdir -p root/DEBIAN
		dpkg -L "$2" | while read -r path; do
			if [ -d "$path" ]; then mkdir -p "root$path"; else [ ! -e "$path" ] || cp -a "$path" "root$path"; fi
		done
		dpkg-query -s "$2" | sed '/^Status:/d; /^Conffiles:/,/^[A-Z]/{/^Conffiles:/d; /^ \//d}' >root/DEBIAN/control
		for script in preinst postinst prerm postrm conffiles; do
			[ ! -e "/var/lib/dpkg/info/$2.$script" ] || cp "/var/lib/dpkg/info/$2.$script" root/DEBIAN/$script
		done
		if [ -e root/DEBIAN/conffiles ]; then # without documentation, which the guest's root has left out
			while read -r path; do [ ! -e "root$path" ] || echo "$path"; done <root/DEBIAN/conffiles >conffiles; mv conffiles root/DEBIAN/conffiles
		fi
		dpkg-deb --root-owner-group --build root "$3"`, "sh", dir, name, deb).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return deb
}

// lxc is a container of LXC with 64 MiB, whose init is busybox.
type lxc struct{ name, config string }

func startLXC(t *testing.T, name string) *lxc {
	t.Helper()
	root := busyboxRoot(t)
	// Nested containers find the whole tree there.
	if err := os.MkdirAll(filepath.Join(root, "var/lib/lxcfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := &lxc{name: name, config: filepath.Join(t.TempDir(), "config")}
	config := fmt.Sprintf(`lxc.include = /usr/share/lxc/config/common.conf
lxc.uts.name = %s
lxc.rootfs.path = dir:%s
lxc.net.0.type = empty
lxc.apparmor.profile = unconfined
lxc.cgroup2.memory.max = 64M
lxc.init.cmd = /bin/busybox sh -c 'while :; do /bin/busybox sleep 1; done'
`, name, root)
	if err := os.WriteFile(c.config, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	if out, err := exec.Command("lxc-start", "-n", name, "-f", c.config, "-l", "INFO", "-o", log).CombinedOutput(); err != nil {
		t.Fatalf("lxc-start: %v\n%s\n%s", err, out, readFile(t, log))
	}
	t.Cleanup(func() { exec.Command("lxc-stop", "-k", "-n", name).Run() })
	return c
}

// sh runs a command in the container.
func (c *lxc) sh(t *testing.T, command string) string {
	t.Helper()
	out, err := exec.Command("lxc-attach", "-n", c.name, "--clear-env", "--", "/bin/busybox", "sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Errorf("lxc-attach %s: %v\n%s", c.name, err, out)
	}
	return string(out)
}

// memTotal is the MemTotal that the container sees, in MiB.
func (c *lxc) memTotal(t *testing.T) int {
	t.Helper()
	return int(meminfo(t, c.sh(t, "/bin/busybox cat /proc/meminfo"))["MemTotal"] >> 10)
}

func (c *lxc) pid(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("lxc-info", "-n", c.name, "-pH").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestSystemdLXCPackageTakesThePlaceOfLXCFS migrates a host with the packages lxc and
// lxcfs, under a container that runs, and goes back.
func TestSystemdLXCPackageTakesThePlaceOfLXCFS(t *testing.T) {
	packages, err := filepath.Glob("../build/packages/vprocfs-lxcfs_*.deb")
	if err != nil || len(packages) != 1 {
		t.Fatalf("packages %q, %v", packages, err)
	}
	deb, err := filepath.Abs(packages[0])
	if err != nil {
		t.Fatal(err)
	}
	back := repack(t, "lxcfs")
	systemctl(t, "enable", "--now", lxcfsUnit)
	waitFor(t, "LXCFS", func() bool { return deviceAt(t, lxcMount) != "" })
	// As Incus, which requires the unit.
	dependent := "requires-lxcfs.service"
	text := "[Unit]\nRequires=" + lxcfsUnit + "\nAfter=" + lxcfsUnit + "\n[Service]\nExecStart=/bin/sleep infinity\n"
	if err := os.WriteFile("/run/systemd/system/"+dependent, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	systemctl(t, "daemon-reload")
	systemctl(t, "start", dependent)
	t.Cleanup(func() { exec.Command("systemctl", "stop", dependent).Run() })
	incus := property(dependent, "MainPID")

	c := startLXC(t, "before")
	init := c.pid(t)
	if got := c.memTotal(t); got != 64 {
		t.Fatalf("with LXCFS MemTotal is %d MiB", got)
	}

	apt(t, deb)
	holder := holderOf(t, lxcfsUnit)
	if exe, err := os.Readlink("/proc/" + strconv.Itoa(holder) + "/exe"); err != nil || exe != lxcfsBinary {
		t.Fatalf("the unit runs %s, %v\n%s", exe, err, journal(t, lxcfsUnit))
	}
	if got := c.memTotal(t); got != 64 || c.pid(t) != init {
		t.Errorf("after the migration MemTotal is %d MiB, init %s, was %s", got, c.pid(t), init)
	}
	if enabled := property(lxcfsUnit, "UnitFileState"); enabled != "enabled" {
		t.Errorf("the unit is %s", enabled)
	}
	out, err := exec.Command("dpkg-query", "-W", "-f", "${db:Status-Abbrev}", "lxcfs").CombinedOutput()
	if err == nil && strings.HasPrefix(string(out), "ii") {
		t.Error("lxcfs is still installed")
	}
	// Containers that start later have what LXCFS did not have.
	after := startLXC(t, "after")
	if got := after.memTotal(t); got != 64 {
		t.Errorf("of a container that starts after it MemTotal is %d MiB", got)
	}
	mounts := after.sh(t, "/bin/busybox cat /proc/mounts")
	for _, want := range []string{"/proc/vmstat fuse.lxcfs", "/proc/pressure fuse.lxcfs", cpuDir + " fuse.lxcfs", "/var/lib/lxcfs fuse.lxcfs"} {
		if !strings.Contains(mounts, want) {
			t.Errorf("no %s:\n%s", want, mounts)
		}
	}

	// An upgrade and the death of the daemon are seen by nobody.
	upgrade := exec.Command("dpkg", "--install", deb)
	if out, err := upgrade.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if now := holderOf(t, lxcfsUnit); now != holder {
		t.Errorf("after an upgrade the holder is %d, was %d", now, holder)
	}
	if err := exec.Command("kill", "-9", strconv.Itoa(holder)).Run(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "another holder", func() bool { return holderOf(t, lxcfsUnit) != holder })
	if got := c.memTotal(t); got != 64 {
		t.Errorf("after the death of the holder MemTotal is %d MiB", got)
	}
	if now := property(dependent, "MainPID"); now != incus {
		t.Errorf("what requires the unit has pid %s, had %s", now, incus)
	}

	apt(t, back)
	host := int(meminfo(t, readFile(t, "/proc/meminfo"))["MemTotal"] >> 10)
	for _, c := range []*lxc{c, after} {
		if got := c.memTotal(t); got != host {
			t.Errorf("%s: after the way back MemTotal is %d MiB, want the host's %d", c.name, got, host)
		}
	}
	if c.pid(t) != init {
		t.Error("the container has been restarted")
	}
	if now := property(dependent, "MainPID"); now != incus {
		t.Errorf("what requires the unit has pid %s, had %s", now, incus)
	}
	waitFor(t, "LXCFS", func() bool {
		exe, _ := os.Readlink("/proc/" + property(lxcfsUnit, "MainPID") + "/exe")
		return exe == "/usr/bin/lxcfs" && deviceAt(t, lxcMount) != ""
	})
	if got := startLXC(t, "lxcfs").memTotal(t); got != 64 {
		t.Errorf("with LXCFS again MemTotal is %d MiB", got)
	}
	dpkg(t, "--purge", "vprocfs-lxcfs")
	for _, pattern := range []string{"/etc/default/vprocfs-lxcfs", "/usr/libexec/vprocfs-lxcfs", "/usr/share/doc/vprocfs-lxcfs"} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("a purge leaves %s", left)
		}
	}
	checkUptime(t, lxcMount)
}
