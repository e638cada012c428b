// SPDX-License-Identifier: Apache-2.0

package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// plainContainer starts a container of 64 MiB and half a CPU whose /proc is the
// kernel's, and a shell in it that the test talks to. setup is what its init does
// first, and flags are those of unshare(1).
func plainContainer(t *testing.T, setup string, flags ...string) *container {
	t.Helper()
	g := newGroup(t)
	g.limitMemory(t, 64)
	g.limitCPU(t, 50)
	args := append([]string{"unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc"}, flags...)
	args = append(args, "sh", "-euc", setup+"\necho ready; exec sh")
	// In the group first: in a user namespace it may not be entered.
	return startSubject(t, exec.Command("sh", append([]string{"-euc", g.enter() + ` && exec "$@"`, "sh"}, args...)...), "ready")
}

// runtimeContainer starts a container of runc or crun with the limits of
// plainContainer, and a shell in it. With dir it starts with the daemon's files.
func runtimeContainer(t *testing.T, runtime, dir string) *container {
	t.Helper()
	need(t, runtime, runtime)
	name := fmt.Sprintf("vprocfs-attach-%s-%d-%d", runtime, os.Getpid(), time.Now().UnixNano())
	at := writeBundle(t, dir, name, "ro")
	b := readConfig(t, at)
	b.Process.Args = []string{"/bin/busybox", "sh", "-c", "echo ready; exec busybox sh"}
	writeConfig(t, at, b)
	pidFile := t.TempDir() + "/pid"
	command := []string{runtime, "--root", t.TempDir(), "run", "--pid-file", pidFile, "--bundle", at, name}
	if runtime == "crun" {
		command = hidingV2(command...)
	}
	c := startSubject(t, exec.Command(command[0], command[1:]...), "ready")
	// runc writes it after the container has begun.
	waitFor(t, "the pid file", func() bool {
		text, err := os.ReadFile(pidFile)
		if err == nil {
			c.init, err = strconv.Atoi(string(text))
		}
		return err == nil
	})
	return c
}

// wantView checks that the container sees its own numbers.
func wantView(t *testing.T, c *container) {
	t.Helper()
	if got := memTotal(t, c.sh(t, "busybox cat /proc/meminfo")); got != 64 {
		t.Errorf("MemTotal %d MiB, want 64", got)
	}
	if got := statCPUs(t, c.sh(t, "busybox cat /proc/stat")); len(got) != 1 {
		t.Errorf("rows of CPUs %v, want one", got)
	}
	// A container of runc or crun here has no /sys.
	online := c.sh(t, "busybox cat /sys/devices/system/cpu/online 2>/dev/null || echo none")
	if _, err := strconv.Atoi(strings.TrimSpace(online)); err != nil && online != "none\n" {
		t.Errorf("CPUs online %q, want one", online)
	}
	start := startOf(t, c.init)
	least := boottime(t) - start
	up := floats(t, c.sh(t, "busybox cat /proc/uptime"))[0]
	if most := boottime(t) - start; up < least-0.1 || up > most+0.1 {
		t.Errorf("uptime %.2f, want %.2f to %.2f", up, least, most)
	}
}

// wantHost checks that the container sees the host's memory.
func wantHost(t *testing.T, c *container) {
	t.Helper()
	want := meminfo(t, readFile(t, "/proc/meminfo"))["MemTotal"]
	if got := meminfo(t, c.sh(t, "busybox cat /proc/meminfo"))["MemTotal"]; got != want {
		t.Errorf("MemTotal %d kB, want the host's %d", got, want)
	}
}

// attachable are the names of all that the daemon at dir has for /proc.
func attachable(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "proc"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// mountsOf is what the mountinfo of a container says of /proc and /sys. Others
// come and go with what else runs on the machine.
func mountsOf(t *testing.T, c *container) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(readFile(t, fmt.Sprintf("/proc/%d/mountinfo", c.init))) {
		if at := strings.Fields(line)[4]; strings.HasPrefix(at, "/proc") || strings.HasPrefix(at, "/sys") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// attach runs `vprocfs attach` for a container.
func attach(t *testing.T, dir string, c *container, flags ...string) (stdout, stderr string, status int) {
	t.Helper()
	return vprocfs(t, append([]string{"attach", "--mount", dir, "--pid", strconv.Itoa(c.init)}, flags...)...)
}

// wantAttached checks what attach prints: a line with state for each file served.
func wantAttached(t *testing.T, dir string, c *container, state string) {
	t.Helper()
	out, stderr, status := attach(t, dir, c)
	if status != 0 || stderr != "" {
		t.Errorf("attach: exit status %d\n%s%s", status, out, stderr)
	}
	for _, name := range attachable(t, dir) {
		if line := "/proc/" + name + ": " + state + "\n"; !strings.Contains(out, line) {
			t.Errorf("attach does not say %q:\n%s", line, out)
		}
	}
	if c.sh(t, "[ -d /sys/devices ] || echo none") == "none\n" {
		state = "absent"
	}
	// Those of runc and crun mask a directory in it.
	if line := ": " + state + "\n"; !strings.Contains(out, cpuDir+line) && !strings.Contains(out, cpuDir+"/online"+line) {
		t.Errorf("attach does not say %q of the CPUs:\n%s", line, out)
	}
}

// TestAttachUncoversNoMask has a container whose runtime hides a directory in
// the one that attach would cover, as Docker does with thermal_throttle.
func TestAttachUncoversNoMask(t *testing.T) {
	dir, _ := serve(t)
	c := plainContainer(t, "mount -t tmpfs -o ro tmpfs "+cpuDir+"/cpu0")
	out, stderr, status := attach(t, dir, c)
	for _, name := range []string{"online", "present", "possible", "offline"} {
		if !strings.Contains(out, cpuDir+"/"+name+": attached\n") {
			t.Errorf("%s is not attached", name)
		}
	}
	if status != 0 || strings.Contains(out, cpuDir+": ") {
		t.Errorf("exit status %d\n%s%s", status, out, stderr)
	}
	if in := c.sh(t, "ls "+cpuDir+"/cpu0"); in != "" {
		t.Errorf("the mask is off: %s", in)
	}
	wantView(t, c)
	if out, stderr, status := attach(t, dir, c); status != 0 || strings.Count(out, ": already attached\n") != len(attachable(t, dir))+5 {
		t.Errorf("again: exit status %d\n%s%s", status, out, stderr)
	}
}

func TestAttachShowsTheViewInARunningContainer(t *testing.T) {
	dir, _ := serve(t)
	for name, start := range map[string]func(t *testing.T) *container{
		"plain":            func(t *testing.T) *container { return plainContainer(t, "") },
		"user namespace":   func(t *testing.T) *container { return plainContainer(t, "", "--user", "--map-root-user") },
		"read-only proc":   func(t *testing.T) *container { return plainContainer(t, "mount -o remount,ro,bind /proc") },
		"shared in itself": func(t *testing.T) *container { return plainContainer(t, "mount --make-rshared /") },
		"without sys":      func(t *testing.T) *container { return plainContainer(t, "umount -l /sys") },
		"runc":             func(t *testing.T) *container { return runtimeContainer(t, "runc", "") },
		"crun":             func(t *testing.T) *container { return runtimeContainer(t, "crun", "") },
		"chroot without sysfs": func(t *testing.T) *container {
			root := busyboxRoot(t)
			return plainContainer(t, fmt.Sprintf("mount -t proc proc %[1]s/proc; chroot=$(command -v chroot); export PATH=/bin; exec $chroot %[1]s busybox sh -c 'echo ready; exec busybox sh'", root))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t)
			wantHost(t, c)
			host := readFile(t, "/proc/self/mountinfo")
			wantAttached(t, dir, c, "attached")
			wantView(t, c)
			mounts := mountsOf(t, c)
			wantAttached(t, dir, c, "already attached")
			if now := mountsOf(t, c); now != mounts {
				t.Errorf("a second attach has changed the mounts from\n%sto\n%s", mounts, now)
			}
			if now := readFile(t, "/proc/self/mountinfo"); strings.Count(now, " /proc/") != strings.Count(host, " /proc/") {
				t.Errorf("the host's mounts were\n%sand are\n%s", host, now)
			}
			wantView(t, c)
		})
	}
}

func TestAttachOnlyTheFilesAskedFor(t *testing.T) {
	dir, _ := serve(t)
	c := plainContainer(t, "")
	out, stderr, status := attach(t, dir, c, "--file", "uptime", "--file=/proc/stat")
	if want := "/proc/uptime: attached\n/proc/stat: attached\n"; status != 0 || out != want || stderr != "" {
		t.Errorf("exit status %d, %q, want %q\n%s", status, out, want, stderr)
	}
	if got := statCPUs(t, c.sh(t, "cat /proc/stat")); len(got) != 1 {
		t.Errorf("rows of CPUs %v, want one", got)
	}
	wantHost(t, c)
}

func TestAttachGoesOnWhereOneFileFails(t *testing.T) {
	dir, _ := serve(t)
	c := plainContainer(t, "")
	out, stderr, status := attach(t, dir, c, "--file", "uptime", "--file", "version", "--file", "meminfo", "--file", "stat")
	if status != 1 || strings.Count(out, ": attached\n") != 3 || !strings.Contains(out, "/proc/version: failed: the daemon does not serve it\n") {
		t.Errorf("exit status %d\n%s", status, out)
	}
	if stderr != fmt.Sprintf("vprocfs: attach: pid %d: 1 of 4 files not attached\n", c.init) {
		t.Errorf("stderr %q", stderr)
	}
	if got := memTotal(t, c.sh(t, "cat /proc/meminfo")); got != 64 {
		t.Errorf("MemTotal %d MiB, want 64", got)
	}
}

// TestAttachIsNotLedAstray tries containers that have made something else of the
// places where the files belong.
func TestAttachIsNotLedAstray(t *testing.T) {
	dir, _ := serve(t)
	for name, tt := range map[string]struct {
		setup  string
		failed int // of the files
		says   string
	}{
		"proc is a tmpfs with a link": {
			"umount -l /proc; mount -t tmpfs tmpfs /proc; ln -s /etc/passwd /proc/meminfo; echo > /proc/uptime",
			-1, "/proc of the container is not a procfs",
		},
		"proc is a part of a procfs": {"mount --bind /proc/sys /proc", -1, "/proc of the container is not a procfs"},
		"a file over a file":         {"mount --bind /etc/passwd /proc/meminfo", 1, "/proc/meminfo: failed: another mount is there"},
		"another file of procfs": {
			"mount --bind /proc/sys/kernel/core_pattern /proc/meminfo",
			1, "/proc/meminfo: failed: another mount is there, of type proc",
		},
		"another file of the view": {
			fmt.Sprintf("mount --bind %s/proc/uptime /proc/meminfo", dir),
			1, "/proc/meminfo: failed: another mount is there, of type fuse.vprocfs",
		},
		"a root of its own with a link for proc": {
			"root=$(mktemp -d); mount -t tmpfs tmpfs $root; mkdir $root/real $root/old $root/bin; cp $(command -v busybox) $root/bin/busybox; " +
				"mount -t proc proc $root/real; ln -s real $root/proc; chroot=$(command -v chroot); export PATH=/bin; exec $chroot $root busybox sh -c 'echo ready; exec busybox sh'",
			-1, "too many levels of symbolic links",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := plainContainer(t, tt.setup)
			mounts := mountsOf(t, c)
			out, _, status := attach(t, dir, c)
			want := tt.failed
			if want < 0 {
				want = len(attachable(t, dir))
			}
			if got := strings.Count(out, ": failed: "); status != 1 || got != want {
				t.Errorf("exit status %d, %d files failed, want %d\n%s", status, got, want, out)
			}
			if !strings.Contains(out, tt.says) {
				t.Errorf("it does not say %q:\n%s", tt.says, out)
			}
			if now := mountsOf(t, c); tt.failed < 0 && strings.Count(now, "\n") > strings.Count(mounts, "\n")+2 { // its CPUs and nodes it may have
				t.Errorf("the mounts were\n%sand are\n%s", mounts, now)
			}
		})
	}
}

func TestAttachNeedsAContainer(t *testing.T) {
	dir, _ := serve(t)
	ended := exec.Command("true")
	if err := ended.Start(); err != nil {
		t.Fatal(err)
	}
	defer ended.Wait() // a zombie until then
	waitFor(t, "true to end", func() bool { return statFields(fmt.Sprintf("/proc/%d/stat", ended.Process.Pid))[3] == "Z" })
	for pid, want := range map[int]string{
		os.Getpid():       "it is in no container: its mount namespace is that of vprocfs itself",
		ended.Process.Pid: "no such process",
		1 << 22:           "no such process",
	} {
		out, stderr, status := vprocfs(t, "attach", "--mount", dir, "--pid", strconv.Itoa(pid))
		if status != 1 || out != "" || stderr != fmt.Sprintf("vprocfs: attach: pid %d: %s\n", pid, want) {
			t.Errorf("pid %d: exit status %d\n%s%s", pid, status, out, stderr)
		}
	}
	c := plainContainer(t, "")
	empty := t.TempDir()
	if out, stderr, status := attach(t, empty, c); status != 1 || out != "" || strings.Count(stderr, "\n") != 1 {
		t.Errorf("no daemon: exit status %d\n%s%s", status, out, stderr)
	}
	for _, args := range [][]string{{}, {"--pid", "0"}, {"--pid", "1", "extra"}, {"--pid", "1", "--file", "/etc/passwd"}, {"--pid", "1", "--file", "../x"}, {"--pid", "1", "--file", "proc"}} {
		if out, stderr, status := vprocfs(t, append([]string{"attach"}, args...)...); status != 2 || out != "" || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: exit status %d\n%s%s", args, status, out, stderr)
		}
	}
}

// onSharedMounts runs a shell script in a mount namespace whose mounts are all
// shared, as they are under systemd, with a daemon on "$1", and returns what it
// prints.
func onSharedMounts(t *testing.T, script string) string {
	t.Helper()
	dir := t.TempDir()
	script = `
mount --make-rshared /
vprocfs serve "$1" 2>"$1.log" >&2 &
daemon=$!
until grep -q msg=serving "$1.log"; do sleep 0.1; done
` + script + `
kill $daemon
wait`
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--propagation", "private", "sh", "-uc", script, "sh", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", failure(err), out)
	}
	return string(out)
}

// TestAttachNeverLeaksIntoTheHost gives the "container" mounts that are peers of
// the host's.
func TestAttachNeverLeaksIntoTheHost(t *testing.T) {
	out := onSharedMounts(t, `
unshare --mount --propagation unchanged sleep 1000 &
inside=$!
until [ "$(readlink /proc/$inside/ns/mnt)" != "$(readlink /proc/self/ns/mnt)" ]; do sleep 0.1; done
vprocfs attach --mount "$1" --pid $inside --file meminfo
echo status $?
grep ' /proc/meminfo ' /proc/self/mountinfo || echo none
kill $inside`)
	if !strings.Contains(out, "shares the mount below with the host") || !strings.HasSuffix(out, "status 1\nnone\n") {
		t.Error(out)
	}
}

// TestMountsOverAnAttachedFileStayInTheContainer is about the way back, from the
// copy of the daemon's mount to the mount.
func TestMountsOverAnAttachedFileStayInTheContainer(t *testing.T) {
	out := onSharedMounts(t, `
unshare --mount --pid --fork --mount-proc sh -c '
	touch "$1.up"
	until grep -q " /proc/meminfo /proc/meminfo " /proc/self/mountinfo; do sleep 0.1; done
	mount --bind /etc/passwd /proc/meminfo; grep -c ^root: /proc/meminfo' sh "$1" &
inside=$!
until [ -e "$1.up" ]; do sleep 0.1; done
vprocfs attach --mount "$1" --pid $(pgrep -P $inside) --file meminfo
wait $inside
grep -c MemTotal "$1/proc/meminfo"`)
	if out != "/proc/meminfo: attached\n1\n1\n" {
		t.Errorf("%q", out)
	}
}

func TestAttachReplacesALivingMountWhenToldTo(t *testing.T) {
	first, _ := serve(t)
	second, _ := serve(t)
	c := startContainer(t, "--mount", first, "--memory", "64M", "--cpus", "0.5")
	out, _, status := attach(t, second, c)
	if status != 1 || strings.Count(out, "another mount is there, of type fuse.vprocfs\n") != len(attachable(t, second))+2 {
		t.Errorf("exit status %d\n%s", status, out)
	}
	if out, stderr, status := attach(t, second, c, "--replace"); status != 0 || strings.Count(out, ": replaced\n") != len(attachable(t, second))+2 {
		t.Errorf("exit status %d\n%s%s", status, out, stderr)
	}
	wantView(t, c)
	wantAttached(t, second, c, "already attached")
	if n := strings.Count(mountsOf(t, c), " /proc/uptime "); n != 1 {
		t.Errorf("%d mounts on /proc/uptime", n)
	}
}

// TestAttachSurvivesTheDeathOfTheContainer kills it at all moments.
func TestAttachSurvivesTheDeathOfTheContainer(t *testing.T) {
	dir, _ := serve(t)
	before := len(processesOf(t, dir))
	for i := range 12 {
		c := plainContainer(t, "")
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			time.Sleep(time.Duration(i*4) * time.Millisecond)
			unix.Kill(c.init, unix.SIGKILL)
		}()
		out, stderr, status := attach(t, dir, c)
		<-killed
		switch {
		case status == 0 && stderr == "":
		case status == 1 && strings.Count(stderr, "\n") == 1 && strings.HasPrefix(stderr, "vprocfs: attach: pid "):
		default:
			t.Errorf("exit status %d\n%s%s", status, out, stderr)
		}
	}
	readFile(t, filepath.Join(dir, "proc/uptime"))
	if after := len(processesOf(t, dir)); after != before {
		t.Errorf("%d processes name %s, there were %d", after, dir, before)
	}
}

// processesOf lists the processes with text in their command line.
func processesOf(t *testing.T, text string) []string {
	t.Helper()
	var found []string
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is well formed
	for _, path := range lines {
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), text) {
			found = append(found, path)
		}
	}
	return found
}
