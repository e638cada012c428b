// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeSource is a source that reports what the test says.
type fakeSource struct {
	what   string
	events []event
	lost   bool
	err    error
}

func (s *fakeSource) name() string { return s.what }
func (s *fakeSource) fds() []int   { return nil }
func (s *fakeSource) stale() bool  { return false }
func (s *fakeSource) close()       {}
func (s *fakeSource) read(each func(event)) (bool, error) {
	for _, e := range s.events {
		each(e)
	}
	return s.lost, s.err
}

func TestTheBestSourceThatWorksIsNamed(t *testing.T) {
	failing := opener{"first", func() (source, error) { return nil, errors.New("no such PMU") }}
	second := opener{"second", func() (source, error) { return &fakeSource{what: "second"}, nil }}
	third := opener{"third", func() (source, error) { return &fakeSource{what: "third"}, nil }}
	var log bytes.Buffer
	s := openSource([]opener{failing, second, third}, slog.New(slog.NewTextHandler(&log, nil)))
	if s == nil || s.name() != "second" || !strings.Contains(log.String(), "source=second") {
		t.Errorf("%v; log: %s", s, &log)
	}
	log.Reset()
	if s := openSource([]opener{failing}, slog.New(slog.NewTextHandler(&log, nil))); s != nil {
		t.Errorf("%v works", s)
	}
	if text := log.String(); !strings.Contains(text, "no such PMU") || !strings.Contains(text, "level=WARN") {
		t.Errorf("log: %s", text)
	}
}

// TestSourcesOfThisKernelReport: each source that this kernel has reports a process
// that does what it watches for.
func TestSourcesOfThisKernelReport(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("must be run as root")
	}
	// All of them see a process in a new pid namespace that executes a program; the
	// kretprobe one that changes its root, too.
	const script = "mount --bind / /mnt && cd /mnt && pivot_root . mnt && exec true"
	worked := 0
	for _, o := range openers() {
		s, err := o.open()
		if err != nil {
			t.Logf("%s: %v", o.what, err)
			continue
		}
		worked++
		cmd := exec.Command("sh", "-euc", script)
		cmd.SysProcAttr = newNamespaces()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		found := false
		for end := time.Now().Add(10 * time.Second); !found && time.Now().Before(end); {
			_, err := s.read(func(e event) { found = found || e.pid == cmd.Process.Pid })
			if err != nil {
				t.Fatal(err)
			}
			if !found {
				poll(t, s)
			}
		}
		if !found {
			t.Errorf("%s does not report the process", s.name())
		}
		s.close()
	}
	if worked == 0 {
		t.Error("no source works")
	}
}

// poll waits for the source for at most a second.
func poll(t *testing.T, s source) {
	t.Helper()
	var fds []unix.PollFd
	for _, fd := range s.fds() {
		fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	if _, err := unix.Poll(fds, 1000); err != nil && err != unix.EINTR {
		t.Fatal(err)
	}
}

func TestFieldsOfTracepointsAreFound(t *testing.T) {
	const format = `name: task_newtask
ID: 205
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:int common_pid;	offset:4;	size:4;	signed:1;

	field:pid_t pid;	offset:8;	size:4;	signed:1;
	field:char comm[16];	offset:12;	size:16;	signed:0;
	field:u64 clone_flags;	offset:32;	size:8;	signed:0;

print fmt: "pid=%d comm=%s clone_flags=%llx", REC->pid, REC->comm, REC->clone_flags
`
	if got, err := fieldOffset(format, "pid"); got != 8 || err != nil {
		t.Errorf("offset %d, %v", got, err)
	}
	for _, field := range []string{"clone_flags", "comm", "nothing", ""} { // of another size, or missing
		if got, err := fieldOffset(format, field); err == nil {
			t.Errorf("%s: offset %d", field, got)
		}
	}
}

func FuzzFieldOffset(f *testing.F) {
	f.Add("\tfield:pid_t pid;\toffset:8;\tsize:4;\tsigned:1;\n")
	f.Fuzz(func(t *testing.T, format string) {
		if offset, err := fieldOffset(format, "pid"); err == nil && (offset <= 0 || offset > 1<<12) {
			t.Errorf("offset %d", offset)
		}
	})
}

func TestFilesOfTheKprobePMUAreParsed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("config:3\n")
	if bit, err := retprobeBit(path); bit != 3 || err != nil {
		t.Errorf("bit %d, %v", bit, err)
	}
	write("7\n")
	if n, err := readNumber(path); n != 7 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for _, bad := range []string{"", "config1:0", "config:64", "config:0-3"} {
		write(bad)
		if bit, err := retprobeBit(path); err == nil {
			t.Errorf("%q: bit %d", bad, bit)
		}
	}
	if want := []string{"__arm64_sys_pivot_root", "path_pivot_root", "sys_pivot_root"}; !slices.Equal(pivotSymbols("arm64"), want) {
		t.Error(pivotSymbols("arm64"))
	}
	if want := []string{"path_pivot_root", "sys_pivot_root"}; !slices.Equal(pivotSymbols("loong64"), want) {
		t.Error(pivotSymbols("loong64"))
	}
}

// datagram is a message of the proc connector.
func datagram(what uint32, data ...uint32) []byte {
	const event = unix.SizeofNlMsghdr + sizeofCnMsg
	b := make([]byte, event+40)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint32(b[unix.SizeofNlMsghdr:], connectorIdx)
	binary.NativeEndian.PutUint32(b[unix.SizeofNlMsghdr+4:], connectorVal)
	binary.NativeEndian.PutUint32(b[event:], what)
	for i, v := range data {
		binary.NativeEndian.PutUint32(b[event+connectorData+4*i:], v)
	}
	return b
}

func TestConnectorReportsExecs(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	c := &connector{fd: fds[0]}
	defer c.close()
	const fork = 1
	for _, b := range [][]byte{
		datagram(connectorExec, 11, 10), datagram(fork, 12, 12), slices.Concat(datagram(connectorExec, 13, 13), datagram(connectorExec, 14, 14)),
		datagram(connectorExec, 15, 15)[:40], // cut off
	} {
		if _, err := unix.Write(fds[1], b); err != nil {
			t.Fatal(err)
		}
	}
	var got []int
	lost, err := c.read(func(e event) { got = append(got, e.pid) })
	if lost || err != nil || !slices.Equal(got, []int{10, 13, 14}) {
		t.Errorf("%v, lost %v, %v", got, lost, err)
	}
}

func FuzzConnectorMessages(f *testing.F) {
	f.Add(datagram(connectorExec, 1, 2))
	f.Add(slices.Concat(datagram(connectorNone, 1), datagram(connectorExec, 1, 2)))
	f.Fuzz(func(t *testing.T, b []byte) {
		messages(b, func(_ uint32, data []byte) {
			if len(data) != 8 {
				t.Errorf("%d bytes of data", len(data))
			}
		})
	})
}
