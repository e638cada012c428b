// SPDX-License-Identifier: Apache-2.0

package initpid

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what must happen at some time.
const patience = 20 * time.Second

// insideEnv marks a test that runs in a pid namespace of its own: see runInside.
const insideEnv = "INITPID_TEST_INSIDE"

// modeEnv makes the test binary play a part instead of running tests.
const modeEnv = "INITPID_TEST_MODE"

func TestMain(m *testing.M) {
	RunHelper()
	if mode := os.Getenv(modeEnv); mode != "" {
		play(mode)
		return
	}
	if os.Getenv(insideEnv) != "" {
		// /proc of this new pid namespace, in a mount namespace of our own.
		must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		must(unix.Mount("proc", "/proc", "proc", 0, ""))
	}
	// The runtime's own descriptors and those of os/exec come with the first use.
	r, w, err := os.Pipe()
	must(err)
	r.Close()
	w.Close()
	warm := exec.Command("/proc/self/exe")
	warm.Env = []string{modeEnv + "=silent"}
	must(warm.Run())
	before := openFiles()
	code := m.Run()
	if after := openFiles(); len(after) > len(before) {
		fmt.Printf("FAIL: descriptors leaked:\nbefore %v\nafter  %v\n", before, after)
		code = 1
	}
	if kids := childrenOf(os.Getpid()); len(kids) > 0 {
		fmt.Printf("FAIL: children left: %v\n", kids)
		code = 1
	}
	os.Exit(code)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// play is what a process of a test container does. All end with their stdin.
func play(mode string) {
	switch mode {
	case "init":
		fmt.Println("ready")
	case "leaderless":
		go func() {
			fmt.Println("ready")
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		}()
		// TestMain runs on the first thread: see init below. Only that ends.
		_, _, _ = unix.Syscall(unix.SYS_EXIT, 0, 0, 0)
	case "nested": // containers in each other, as many as countEnv says
		if count() == 1 {
			fmt.Println("ready")
			break
		}
		must(inner("nested", count()-1).Wait())
		return
	case "crowd": // an init that has many containers in it
		for range count() {
			inner("silentinit", 0)
		}
		fmt.Println("ready")
	case "silentinit":
	case "family": // an init with a child that has a child, which says its pid on the host
		child("parent")
	case "parent":
		child("disguised")
	case "disguised":
		// No more than 15 bytes of it are kept.
		must(unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(unsafe.StringData("x\nNStgid:\t1\n\x00"))), 0, 0, 0))
		fmt.Println("ready")
	case "grouped": // a child of an init, with as many groups as there may be
		must(syscall.Setgroups(manyGroups())) // of all threads
		fmt.Println("ready")
	case "peek":
		peek()
		return
	case "garbage":
		_, _ = unix.Write(helperSock, []byte("what is this"))
		return
	case "silent":
		return
	case "hang":
		time.Sleep(time.Hour)
	default:
		panic("unknown mode " + mode)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// countEnv is a number for the part that is played.
const countEnv = "INITPID_TEST_COUNT"

func count() int {
	n, err := strconv.Atoi(os.Getenv(countEnv))
	must(err)
	return n
}

// inner starts a part as the init of a pid namespace of its own.
func inner(mode string, n int) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{modeEnv + "=" + mode, countEnv + "=" + strconv.Itoa(n), "GOMAXPROCS=1"}
	cmd.Stdin, cmd.Stdout = os.Stdin, os.Stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread()
	must(cmd.Start())
	return cmd
}

// child runs another part as a child process.
func child(mode string) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{modeEnv + "=" + mode}
	cmd.Stdin, cmd.Stdout = os.Stdin, os.Stdout
	must(cmd.Run())
}

// manyGroups are so many that their line is longer than what is read of a status.
func manyGroups() []int {
	groups := make([]int, 4096)
	for i := range groups {
		groups[i] = 1_000_000_000 + i
	}
	return groups
}

func init() {
	if os.Getenv(modeEnv) == "leaderless" {
		runtime.LockOSThread() // in init, so it is the first thread
	}
	// How the tests make a helper that misbehaves.
	if mode, ok := strings.CutPrefix(os.Args[0], "bad-helper-"); ok {
		os.Setenv(modeEnv, mode)
	}
}

// container is a process with its own pid namespace.
type container struct {
	cmd   *exec.Cmd
	pid   int
	said  string // what it printed after "ready"
	stdin io.WriteCloser
}

// startContainer runs a process as init of a new pid namespace, or, with no
// flags, in our own. It is gone at the end of the test.
func startContainer(t testing.TB, mode string, flags uintptr) *container {
	t.Helper()
	return startCmd(t, mode, &syscall.SysProcAttr{Cloneflags: flags})
}

// startCrowd starts n containers in each other, or beside each other in one.
func startCrowd(t testing.TB, mode string, n int) *container {
	t.Helper()
	return startCmd(t, mode, &syscall.SysProcAttr{Cloneflags: newPIDNS}, countEnv+"="+strconv.Itoa(n))
}

func startCmd(t testing.TB, mode string, attr *syscall.SysProcAttr, env ...string) *container {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(env, modeEnv+"="+mode, "GOMAXPROCS=2")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = attr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", mode, err)
	}
	c := &container{cmd: cmd, pid: cmd.Process.Pid, stdin: stdin}
	t.Cleanup(c.end)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("%s did not come up: %v", mode, err)
	}
	c.said = strings.TrimSpace(strings.TrimPrefix(line, "ready"))
	return c
}

const newPIDNS = unix.CLONE_NEWPID

// kill kills the init and leaves it a zombie.
func (c *container) kill(t testing.TB) {
	t.Helper()
	if err := unix.Kill(c.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// State Z is too early: that may be the first thread alone.
	if err := unix.Waitid(unix.P_PID, c.pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
}

// end kills and reaps the init. Calling it again does nothing.
func (c *container) end() {
	if c.cmd.ProcessState != nil {
		return
	}
	_ = unix.Kill(c.pid, unix.SIGKILL)
	_ = c.cmd.Wait()
	c.stdin.Close()
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// statField returns field n (3 is the state) of /proc/PID/stat, or "".
func statField(pid, n int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	return strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))[n-3]
}

func stateOf(pid int) byte {
	if s := statField(pid, 3); s != "" {
		return s[0]
	}
	return 0
}

// childrenOf lists the processes whose parent is pid.
func childrenOf(pid int) (kids []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		kid, _ := strconv.Atoi(filepath.Base(d))
		if statField(kid, 4) == strconv.Itoa(pid) {
			kids = append(kids, kid)
		}
	}
	return kids
}

// openFiles lists our descriptors as fd:target, without the one it uses itself.
func openFiles() (files []string) {
	entries, err := os.ReadDir("/proc/self/fd")
	must(err)
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil {
			files = append(files, e.Name()+":"+to)
		}
	}
	return files
}

// nsOf is the inode number of the pid's namespace, by another way than ours.
func nsOf(t testing.TB, pid int) uint64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(fmt.Sprintf("/proc/%d/ns/pid", pid), &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// newResolver makes a Resolver that is closed at the end of the test.
func newResolver(t testing.TB, conf Config) *Resolver {
	t.Helper()
	r, err := New(conf)
	if err != nil {
		t.Fatal(err)
	}
	r.timeout = patience // this machine may be busy with other things
	t.Cleanup(r.Close)
	return r
}

// hasIoctl says whether this kernel should have the ioctl.
func hasIoctl(t testing.TB) bool { return kernelIs(t, 6, 11) }

// kernelIs says whether this kernel is major.minor or newer, by its release.
func kernelIs(t testing.TB, major, minor int) bool {
	t.Helper()
	var uts unix.Utsname
	must(unix.Uname(&uts))
	var a, b int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(uts.Release[:]), "%d.%d", &a, &b); err != nil {
		t.Fatal(err)
	}
	return a > major || a == major && b >= minor
}

// eachMethod runs a test with each method this kernel has. That a new kernel
// has the ioctl is TestProbeAgreesWithKernelRelease's business.
func eachMethod(t *testing.T, test func(t *testing.T, m Method)) {
	methods := []Method{Fork, Parents}
	if hasIoctl(t) {
		methods = append(methods, Ioctl)
	}
	for _, m := range methods {
		t.Run(m.String(), func(t *testing.T) { test(t, m) })
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", what, err, want)
	}
}
