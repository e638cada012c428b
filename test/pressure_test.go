// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// eventPatience is how long a test waits for events of the kernel: in a guest
// without KVM time passes slowly.
const eventPatience = 5 * time.Minute

// privilegedDaemon tells whether a daemon that the tests start may set every
// trigger: it has CAP_SYS_RESOURCE where they have it.
func privilegedDaemon(t testing.TB) bool {
	t.Helper()
	m := regexp.MustCompile(`(?m)^CapEff:\t([0-9a-f]+)$`).FindStringSubmatch(readFile(t, "/proc/self/status"))
	caps, err := strconv.ParseUint(m[1], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return caps&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// needTriggers tells whether this kernel lets the daemon set triggers at all, and
// says so where it does not: before Linux 6.5 it wants CAP_SYS_RESOURCE.
func needTriggers(t *testing.T) {
	t.Helper()
	fd, err := unix.Open("/proc/pressure/cpu", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == unix.EPERM {
		t.Skip("this kernel wants CAP_SYS_RESOURCE for triggers, and the tests have it not")
	}
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
}

// documented is the trigger of the kernel's example, but with a window that
// everyone may ask for where the tests are not privileged.
func documented(t *testing.T) string {
	if privilegedDaemon(t) {
		return "some 150000 1000000"
	}
	t.Log("no CAP_SYS_RESOURCE here: the window is 2 s and not 1 s")
	return "some 150000 2000000"
}

// stalls reads the totals of a pressure file, in microseconds, by line.
func stalls(t testing.TB, text string) map[string]uint64 {
	t.Helper()
	m := map[string]uint64{}
	for line := range strings.Lines(text) {
		f := regexp.MustCompile(`^(some|full) avg10=\d+\.\d\d avg60=\d+\.\d\d avg300=\d+\.\d\d total=(\d+)\n$`).FindStringSubmatch(line)
		if f == nil {
			t.Fatalf("odd line %q", line)
		}
		n, err := strconv.ParseUint(f[2], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		m[f[1]] = n
	}
	return m
}

// v2Dir is the directory of the v2 control group of pid.
func v2Dir(t testing.TB, pid int) string {
	t.Helper()
	for line := range strings.Lines(readFile(t, fmt.Sprintf("/proc/%d/cgroup", pid))) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Join(cgroupMount(t, "cgroup2", ""), path)
		}
	}
	t.Fatalf("process %d is in no v2 control group", pid)
	return ""
}

// burnIn keeps every CPU of the container busy, and some tasks of it waiting for
// one, until the container ends or the function is called.
func burnIn(t *testing.T, c *container) (stop func()) {
	t.Helper()
	pids := strings.TrimSpace(c.sh(t, `for i in $(seq $(($(nproc) + 1))); do (while :; do :; done) >/dev/null & printf '%d ' $!; done; echo`))
	return func() { c.sh(t, "kill "+pids+"; wait "+pids+" 2>/dev/null; :") }
}

// showsItsOwn compares what the container sees with its group's files, or with the
// host's, where dir is that of the host's.
func showsItsOwn(t *testing.T, c *container, dir string) {
	t.Helper()
	for _, name := range pressureFiles() {
		name = strings.TrimPrefix(name, "pressure/")
		file := filepath.Join(dir, name+".pressure")
		if dir == hostPressure {
			file = filepath.Join(dir, name)
		}
		before := stalls(t, readFile(t, file))
		shown := stalls(t, c.sh(t, "cat /proc/pressure/"+name))
		after := stalls(t, readFile(t, file))
		if len(shown) != len(before) || shown["some"] < before["some"] || shown["some"] > after["some"] ||
			shown["full"] < before["full"] || shown["full"] > after["full"] {
			t.Errorf("%s: %v, then the container saw %v, then %v", name, before, shown, after)
		}
	}
}

const hostPressure = "/proc/pressure"

func TestPressureIsTheContainersOwn(t *testing.T) {
	c := startContainer(t)
	if !strings.Contains("\n"+readFile(t, "/proc/self/cgroup"), "\n0::") {
		showsItsOwn(t, c, hostPressure) // v1 counts none
		return
	}
	dir := v2Dir(t, c.init)
	// The host's include irq on some kernels.
	if got, want := c.sh(t, "echo /proc/pressure/*"), "/proc/"+strings.Join(slices.Sorted(slices.Values(pressureFiles())), " /proc/")+"\n"; got != want {
		t.Fatalf("it has %q, want %q", got, want)
	}
	stop := burnIn(t, c)
	waitFor(t, "pressure", func() bool { return stalls(t, readFile(t, dir+"/cpu.pressure"))["some"] > 200_000 })
	stop()
	showsItsOwn(t, c, dir)
	// To start counts for a container too, so how much one has says little.
	other := startContainer(t)
	otherDir := v2Dir(t, other.init)
	if otherDir == dir {
		t.Fatalf("both are in %s", dir)
	}
	showsItsOwn(t, other, otherDir)
	if got := c.sh(t, "stat -c '%a %u %g' /proc/pressure/cpu; echo some 1 2000000 2>&1 > /proc/pressure/nothing"); !strings.HasPrefix(got, "666 0 0\n") {
		t.Errorf("%q", got)
	}
}

// TestAGoProgramReadsPressure guards against a program that hangs: Go's puts the
// file into an epoll set.
func TestAGoProgramReadsPressure(t *testing.T) {
	for _, name := range []string{"cpu", "memory", "io"} {
		out := inContainer(t, nil, toolCommand(t, "osread", "/proc/pressure/"+name)...)
		if stalls(t, out)["some"] == 0 && name == "cpu" && len(out) == 0 {
			t.Errorf("%s: %q", name, out)
		}
	}
}

// watcher is the kernel's example, running.
type watcher struct {
	*container
}

// watchStalls starts the kernel's example in a container of its own, and waits until it
// waits.
func watchStalls(t *testing.T, flags []string, args ...string) watcher {
	t.Helper()
	c := startCommand(t, flags, toolCommand(t, "psi", args...)...)
	t.Cleanup(func() { c.cmd.Process.Signal(unix.SIGTERM) }) // it does not end with its input
	w := watcher{c}
	w.expect(t, "waiting for events...")
	return w
}

// expect waits for a line.
func (w watcher) expect(t *testing.T, want string) {
	t.Helper()
	line := make(chan string, 1)
	go func() {
		s, _ := w.out.ReadString('\n') // an empty line tells
		line <- strings.TrimSuffix(s, "\n")
	}()
	select {
	case got := <-line:
		if got != want {
			t.Fatalf("the program says %q, want %q", got, want)
		}
	case <-time.After(eventPatience):
		t.Fatalf("the program does not say %q", want)
	}
}

// workIn starts a shell command on the host in the control group dir, until the test
// ends.
func workIn(t *testing.T, dir, command string) {
	t.Helper()
	inBackground(t, `echo $$ > "$0/cgroup.procs" && `+command, dir)
}

// inBackground starts a shell command on the host, of which arg is $0, until the test
// ends.
func inBackground(t *testing.T, command, arg string) {
	t.Helper()
	cmd := exec.Command("sh", "-c", command, arg)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		cmd.Wait()
	})
}

// burnOn makes the tasks of a v2 control group wait for CPUs.
func burnOn(t *testing.T, dir string) {
	t.Helper()
	for range numCPU(t) + 1 {
		workIn(t, dir, "while :; do :; done")
	}
}

// numCPU is how many CPUs the host has.
func numCPU(t *testing.T) int {
	t.Helper()
	return strings.Count(readFile(t, "/proc/stat"), "\ncpu")
}

func TestTheKernelsExampleSeesCPUPressure(t *testing.T) {
	needTriggers(t)
	for _, mode := range []string{"poll", "epoll"} {
		t.Run(mode, func(t *testing.T) {
			w := watchStalls(t, nil, mode, "/proc/pressure/cpu", documented(t), "3")
			burnOn(t, v2Dir(t, w.init))
			for range 3 {
				w.expect(t, "event triggered!")
			}
		})
	}
}

// TestTheKernelsExampleSeesMemoryPressure has the container's memory reclaimed all
// the time: it uses more than memory.high.
func TestTheKernelsExampleSeesMemoryPressure(t *testing.T) {
	needTriggers(t)
	for _, mode := range []string{"poll", "epoll"} {
		t.Run(mode, func(t *testing.T) {
			w := watchStalls(t, []string{"--memory", "64M"}, mode, "/proc/pressure/memory", documented(t), "2")
			dir := v2Dir(t, w.init)
			high := dir + "/memory.high"
			if _, err := os.Stat(high); err != nil {
				t.Skip("the v2 tree of this host has no memory controller, so that its groups are never short of memory: the test runs in the guests")
			}
			if err := os.WriteFile(high, []byte("16M"), 0); err != nil {
				t.Fatal(err)
			}
			// A file larger than that, read over and over, is read from the disk
			// over and over.
			file := filepath.Join(t.TempDir(), "big")
			if err := exec.Command("dd", "if=/dev/zero", "of="+file, "bs=1M", "count=48").Run(); err != nil {
				t.Fatal(err)
			}
			workIn(t, dir, "while :; do cat "+file+" | tail -c 40000000 >/dev/null; done")
			for range 2 {
				w.expect(t, "event triggered!")
			}
		})
	}
}

// daemonFiles lists what the files of a process are that it has open.
func daemonFiles(t *testing.T, pid int) (files []string) {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, e.Name()))
		if err == nil && strings.HasSuffix(path, ".pressure") {
			files = append(files, path)
		}
	}
	return files
}

// python starts a python3 that runs the lines it is given, in a container with the
// view of the daemon at dir.
func python(t *testing.T, dir string) *container {
	t.Helper()
	return startCommand(t, []string{"--mount", dir}, "python3", "-u", "-c", `
import os, select, sys, errno
def try_(f):
    try: return f()
    except OSError as e: return errno.errorcode[e.errno]
def setnew(text=b"some 100000 2000000\0", name="cpu"):
    fd = os.open("/proc/pressure/" + name, os.O_RDWR | os.O_NONBLOCK)
    got = try_(lambda: os.write(fd, text))
    if isinstance(got, str): os.close(fd)
    return got, fd
def poll(fd, ms=0):
    p = select.poll(); p.register(fd, select.POLLPRI); return [e for _, e in p.poll(ms)]
for line in sys.stdin:
    exec(line)
    print(":end:")
`)
}

// py runs a line of Python and returns what it prints.
func (c *container) py(t *testing.T, line string) string {
	t.Helper()
	return strings.TrimSpace(c.answer(t, line, ":end:"))
}

func TestTriggersAreTheKernels(t *testing.T) {
	needTriggers(t)
	dir, _ := serve(t)
	c := python(t, dir)
	type step struct{ line, want string }
	steps := []step{
		{`fd = os.open("/proc/pressure/cpu", os.O_RDWR); print(poll(fd))`, "[10]"}, // POLLERR and POLLPRI: no trigger
		{`print(os.write(fd, b"some 100000 2000000\0"))`, "20"},
		{`print(poll(fd))`, "[]"},
		{`print(try_(lambda: os.write(fd, b"some 100000 2000000\0")))`, "EBUSY"},
		{`print(poll(fd))`, "[]"},
		{`print(os.pread(fd, 100, 0)[:10])`, "b'some avg10'"},
		{`os.close(fd)`, ""},
		{`print(setnew(b"some 100000\0")[0])`, "EINVAL"},
		{`print(setnew(b"none 100000 2000000\0")[0])`, "EINVAL"},
		{`print(setnew(b"some 2000001 2000000\0")[0])`, "EINVAL"},
		{`print(setnew(b"some 1 10000001\0")[0])`, "EINVAL"},
		{`print(setnew(b"some 1 499999\0")[0])`, "EINVAL"},
		{`fd = os.open("/proc/pressure/io", os.O_WRONLY); print(os.write(fd, b"full 100000 10000000\n")); os.close(fd)`, "21"},
		{`print(try_(lambda: os.open("/proc/pressure/new", os.O_CREAT | os.O_RDWR)))`, "EROFS"},
		{`print(try_(lambda: os.chmod("/proc/pressure/cpu", 0o600)))`, "EPERM"},
		// An unprivileged process may only ask for what costs the host nothing.
		{`os.setresuid(1234, 1234, 1234); print(setnew(b"some 100000 1000000\0")[0])`, "EINVAL"},
		{`print(setnew(b"some 100000 4000000\0")[0])`, "20"},
	}
	if slices.Contains(pressureFiles(), "pressure/irq") {
		steps = append([]step{
			{`fd = os.open("/proc/pressure/irq", os.O_RDWR); print(try_(lambda: os.write(fd, b"some 100000 2000000")))`, "EINVAL"},
			{`print(os.write(fd, b"full 100000 2000000")); os.close(fd)`, "19"},
		}, steps...)
	}
	for _, step := range steps {
		if got := c.py(t, step.line); got != step.want {
			t.Errorf("%s: %q, want %q", step.line, got, step.want)
		}
	}
}

// psimons counts the kernel threads that look after triggers of the privileged.
func psimons(t *testing.T) (n int) {
	t.Helper()
	stats, _ := filepath.Glob("/proc/[0-9]*/comm") // the pattern is well formed
	for _, path := range stats {
		if b, err := os.ReadFile(path); err == nil && strings.HasPrefix(string(b), "psimon") {
			n++
		}
	}
	return n
}

// TestTriggersLeaveNothingBehind: a thousand quick rounds, a handle that was never
// polled, a program that is killed while it polls, a container that ends.
func TestTriggersLeaveNothingBehind(t *testing.T) {
	needTriggers(t)
	dir, pid := serve(t)
	threads := psimons(t)
	c := python(t, dir)
	text := documented(t)
	// Warm: what is read stays open.
	c.py(t, `open("/proc/pressure/cpu").read()`)
	before := daemonFiles(t, pid)
	none := func() bool { return len(daemonFiles(t, pid)) == len(before) && psimons(t) <= threads }
	if got := c.py(t, fmt.Sprintf(`print([g for g, _ in ((lambda r: (r[0], os.close(r[1])))(setnew(b"%s\0")) for i in range(1000)) if g != %d])`, text, len(text)+1)); got != "[]" {
		t.Errorf("rounds that failed: %s", got)
	}
	waitFor(t, "the end of the triggers of 1000 rounds", none)

	if got := c.py(t, fmt.Sprintf(`kept = setnew(b"%s\0"); print(kept[0])`, text)); got != strconv.Itoa(len(text)+1) {
		t.Fatal(got)
	}
	if got := daemonFiles(t, pid); len(got) != len(before)+1 || !slices.Contains(got, v2Dir(t, c.init)+"/cpu.pressure") {
		t.Errorf("with a trigger the daemon has %q open, before %q", got, before)
	}
	c.py(t, `os.close(kept[1])`)
	waitFor(t, "the end of a trigger that nobody polled", none)

	c.py(t, fmt.Sprintf(`r, w = os.pipe(); child = os.fork(); child or (setnew(b"%s\0"), fd := setnew(b"%s\0")[1], os.write(w, b"x"), poll(fd, -1)); os.read(r, 1)`, text, text))
	waitFor(t, "the poller's triggers", func() bool { return len(daemonFiles(t, pid)) == len(before)+2 })
	sleep(200) // into poll(2)
	if got := c.py(t, `os.kill(child, 9); print(os.waitpid(child, 0)[1])`); got != "9" {
		t.Errorf("the poller's end: %s", got)
	}
	waitFor(t, "the end of a killed poller's triggers", none)

	if got := c.py(t, `print([setnew()[0] for i in range(5)])`); got != "[20, 20, 20, 20, 20]" {
		t.Error(got)
	}
	if err := unix.Kill(c.init, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the end of a container's triggers", func() bool { return len(daemonFiles(t, pid)) == 0 && psimons(t) <= threads })
}

func TestAContainerHasOnlySoManyTriggers(t *testing.T) {
	needTriggers(t)
	dir, pid := serve(t)
	c, other := python(t, dir), python(t, dir)
	if got := c.py(t, `print([setnew(name=n)[0] for i in range(6) for n in ("cpu", "io", "memory")])`); got != "["+strings.Repeat("20, ", 16)+"'EBUSY', 'EBUSY']" {
		t.Errorf("18 triggers: %s", got)
	}
	// Pid namespaces of its own making are no way round.
	nested := c.py(t, `import subprocess; p = subprocess.run(["unshare", "-pf", "python3", "-c", "import os; os.write(os.open('/proc/pressure/cpu', os.O_RDWR), b'some 100000 2000000\\n')"], capture_output=True); print(p.returncode, p.stderr)`)
	if !strings.Contains(nested, "busy") {
		t.Errorf("in a pid namespace in the container: %s", nested)
	}
	// With a control group of its own for each it is no way round either.
	nested = c.py(t, fmt.Sprintf(`os.mkdir(%q + "/inner"); p = subprocess.run(["sh", "-c", "echo 0 > $0/inner/cgroup.procs && exec unshare -pf python3 -c \"import os; os.write(os.open('/proc/pressure/cpu', os.O_RDWR), b'some 100000 2000000')\"", %q], capture_output=True); print(p.returncode, p.stderr)`, v2Dir(t, c.init), v2Dir(t, c.init)))
	if !strings.Contains(nested, "busy") {
		t.Errorf("in a pid namespace and a control group in the container: %s", nested)
	}
	if got := other.py(t, `print([setnew()[0] for i in range(3)])`); got != "[20, 20, 20]" {
		t.Errorf("another container: %s", got)
	}
	c.py(t, `import gc; os.closerange(3, 100)`)
	if got := c.py(t, `print(setnew()[0])`); got != "20" {
		t.Errorf("when they are closed: %s", got)
	}
	waitFor(t, "the end of the closed ones", func() bool { return len(daemonFiles(t, pid)) == 4 })
}

// TestARemovedGroupEndsItsPollers: the program outlives its control group.
func TestARemovedGroupEndsItsPollers(t *testing.T) {
	needTriggers(t)
	dir, pid := serve(t)
	top := cgroupMount(t, "cgroup2", "")
	group := filepath.Join(top, fmt.Sprintf("vprocfs-test-%d", os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	defer unix.Rmdir(group)
	for _, mode := range []string{"poll", "epoll"} {
		if err := os.Mkdir(group, 0o755); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
		args := toolCommand(t, "psi", mode, dir+"/proc/pressure/cpu", "some 100000 2000000", "3")
		cmd := exec.Command("sh", append([]string{"-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, group}, args...)...)
		cmd.Stderr = os.Stderr
		w := watcher{startSubject(t, cmd, "waiting for events...")}
		t.Cleanup(func() { cmd.Process.Kill() })
		if got := daemonFiles(t, pid); !slices.Contains(got, group+"/cpu.pressure") {
			t.Fatalf("the daemon has %q open", got)
		}
		if err := os.WriteFile(v2Dir(t, os.Getpid())+"/cgroup.procs", []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the removal of the group", func() bool { return unix.Rmdir(group) == nil })
		w.expect(t, "got POLLERR, event source is gone")
	}
}

// TestWithoutPSIThereAreNoPressureFiles: the host's directory is covered by an
// empty one for the daemon.
func TestWithoutPSIThereAreNoPressureFiles(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("unshare", "-m", "--propagation", "slave", "sh", "-c", `mount -t tmpfs none /proc/pressure && exec vprocfs serve "$0"`, dir)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Wait()
	}()
	buf := make([]byte, 4096)
	n, err := stderr.Read(buf)
	if err != nil || !strings.Contains(string(buf[:n]), "msg=serving") {
		t.Fatalf("%v: %s", err, buf[:n])
	}
	root := fmt.Sprintf("/proc/%d/root%s/proc", cmd.Process.Pid, dir)
	entries, err := os.ReadDir(root)
	if err != nil || len(entries) == 0 {
		t.Fatalf("%v: %v", entries, err)
	}
	for _, e := range entries {
		if e.Name() == "pressure" {
			t.Error("proc/pressure is there")
		}
	}
}

// TestAPlainBindHasThePressureFiles: of their directory, as LXC's mount hook does it, and of
// the whole tree.
func TestAPlainBindHasThePressureFiles(t *testing.T) {
	needTriggers(t)
	dir, _ := serve(t)
	out, err := exec.Command("unshare", "-m", "sh", "-ec", `
		mount --bind "$0/proc/pressure" /proc/pressure
		echo some 100000 2000000 > /proc/pressure/cpu
		head -c 4 /proc/pressure/cpu; echo
		mount --bind "$0" /mnt
		head -c 4 /mnt/proc/pressure/cpu; echo
		echo some 100000 2000000 > /mnt/proc/pressure/cpu
	`, dir).CombinedOutput()
	if err != nil || string(out) != "some\nsome\n" {
		t.Errorf("%v: %s", err, out)
	}
}

func TestADeadDaemonsPressureIsReplacedToo(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	killDaemon(d.cmd)
	if _, err := os.ReadFile(dir + "/proc/pressure/cpu"); err == nil {
		t.Fatal("a killed daemon answers")
	}
	d = startDaemon(t, dir, nil, "serve", dir)
	if line := d.line(t); !strings.Contains(line, "msg=serving") {
		t.Fatal(line)
	}
	stalls(t, readFile(t, dir+"/proc/pressure/cpu"))
	if n := strings.Count(readFile(t, "/proc/self/mountinfo"), dir); n != 1 {
		t.Errorf("%d mounts", n)
	}
	d.cmd.Process.Signal(unix.SIGTERM)
	if log, status := d.end(t); status != 0 || isMounted(t, dir) {
		t.Errorf("exit status %d\n%s", status, log)
	}
}
