// SPDX-License-Identifier: Apache-2.0

package syscalls

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"vprocfs/internal/seccomp"
	"vprocfs/internal/seccomp/seccomptest"
)

// TestAddressesThatCannotBeWritten get what the kernel returns for them.
func TestAddressesThatCannotBeWritten(t *testing.T) {
	v := newFakeView()
	a, c := serve(t, v)
	hole := c.Map(2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if _, e := c.Call(unix.SYS_MUNMAP, hole+page, page); e != 0 {
		t.Fatal(e)
	}
	for name, addr := range map[string]uintptr{
		"0": 0, "1": 1, "end of the address space": ^uintptr(0) - 7, "half of it": 1 << 63, "unmapped": hole + page,
		"half unmapped":    hole + page - 8,
		"shared read-only": c.Map(page, unix.PROT_READ, unix.MAP_SHARED),
	} {
		if r, e := c.Call(unix.SYS_SYSINFO, addr); r != -1 || e != unix.EFAULT {
			t.Errorf("sysinfo, %s: %d, %v", name, r, e)
		}
		if name == "half unmapped" {
			continue // 8 bytes are enough for this one
		}
		if r, e := c.Call(unix.SYS_SCHED_GETAFFINITY, 0, 128, addr); r != -1 || e != unix.EFAULT {
			t.Errorf("sched_getaffinity, %s: %d, %v", name, r, e)
		}
	}
	// The agent goes on.
	addr := c.Map(page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if r, e := c.Call(unix.SYS_SYSINFO, addr+1); r != 0 || e != 0 || !bytes.Equal(c.Peek(addr+1, maxSysinfo), appendSysinfo64(nil, &v.info)) {
		t.Errorf("%d, %v", r, e)
	}
	wantOutcome(t, a, "sysinfo/answered", 1)
}

// Ioctls of userfaultfd(2).
const (
	uffdioAPI      = 0xc018aa3f
	uffdioRegister = 0xc020aa00
	uffdioZeropage = 0xc020aa04
)

// TestPageThatIsNeverDelivered is the one of a thread of the caller's own (userfaultfd(2)):
// the caller waits for it, and the agent does not.
func TestPageThatIsNeverDelivered(t *testing.T) {
	a, c := serve(t, newFakeView())
	scratch := mapPage(c)
	ioctl := func(fd int, request uintptr, words ...uint64) {
		t.Helper()
		var b []byte
		for _, w := range words {
			b = binary.NativeEndian.AppendUint64(b, w)
		}
		c.Poke(scratch, b)
		if _, e := c.Call(unix.SYS_IOCTL, uintptr(fd), request, scratch); e != 0 {
			t.Fatalf("ioctl %#x: %v", request, e)
		}
	}
	fd, e := c.Call(unix.SYS_USERFAULTFD, unix.O_CLOEXEC)
	if e != 0 {
		t.Fatal("userfaultfd: ", e)
	}
	ioctl(fd, uffdioAPI, 0xaa, 0, 0)
	addr := mapPage(c)
	ioctl(fd, uffdioRegister, uint64(addr), page, 1, 0)
	stuck := c.Go(unix.SYS_SYSINFO, addr)
	for begun := time.Now(); a.Stats()["sysinfo/failed"] == 0; time.Sleep(time.Millisecond) {
		if time.Since(begun) > seccomptest.Patience {
			t.Fatal("the agent waits for the page")
		}
	}
	other := mapPage(c)
	if r, e := c.Call(unix.SYS_SYSINFO, other); r != 0 || e != 0 {
		t.Errorf("another thread: %d, %v", r, e)
	}
	wantOutcome(t, a, "sysinfo/answered", 1)
	if stuck.Returned() {
		t.Error("the call has returned without the page")
	}
	ioctl(fd, uffdioZeropage, uint64(addr), page, 0, 0)
	if r, e := stuck.Wait(); r != 0 || e != 0 {
		t.Errorf("with the page: %d, %v", r, e)
	}
}

// slowFile is a file system with one file, whose content comes when it is released.
type slowFile struct {
	fuse.RawFileSystem
	read    chan struct{} // one element for each READ
	release chan struct{}
}

func (f *slowFile) Lookup(_ <-chan struct{}, _ *fuse.InHeader, _ string, out *fuse.EntryOut) fuse.Status {
	out.NodeId, out.Attr = 2, fuse.Attr{Ino: 2, Mode: unix.S_IFREG | 0o666, Size: page, Nlink: 1}
	return fuse.OK
}

func (f *slowFile) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.Attr = fuse.Attr{Ino: in.NodeId, Mode: unix.S_IFREG | 0o666, Size: page, Nlink: 1}
	if in.NodeId == 1 {
		out.Attr = fuse.Attr{Ino: 1, Mode: unix.S_IFDIR | 0o777, Nlink: 2}
	}
	return fuse.OK
}

func (f *slowFile) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.OK }

func (f *slowFile) Read(_ <-chan struct{}, _ *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	f.read <- struct{}{}
	<-f.release
	clear(buf)
	return fuse.ReadResultData(buf), fuse.OK
}

// TestPageOfAFileSystemThatDoesNotAnswer holds up the container's own calls, and no other's.
func TestPageOfAFileSystemThatDoesNotAnswer(t *testing.T) {
	f := &slowFile{fuse.NewDefaultRawFileSystem(), make(chan struct{}, 10), make(chan struct{})}
	dir := t.TempDir()
	server, err := fuse.NewServer(f, dir, &fuse.MountOptions{DirectMountStrict: true})
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve()
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	v := newFakeView()
	a := NewAgent(v, slog.New(slog.DiscardHandler))
	for _, end := range []string{"answered", "killed"} {
		c := addCaller(t, a, end)
		path := mapPage(c)
		c.Poke(path, []byte(dir+"/"+end+"\x00"))
		at := unix.AT_FDCWD
		fd, e := c.Call(unix.SYS_OPENAT, uintptr(at), path, unix.O_RDWR)
		if e != 0 {
			t.Fatal("open: ", e)
		}
		addr, e := c.Call(unix.SYS_MMAP, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE, uintptr(fd), 0)
		if e != 0 {
			t.Fatal("mmap: ", e)
		}
		stuck := c.Go(unix.SYS_SYSINFO, uintptr(addr))
		select {
		case <-f.read:
		case <-time.After(seccomptest.Patience):
			t.Fatal("the file system is not asked")
		}
		other := addCaller(t, a, "other")
		for range 100 {
			if r, e := other.Call(unix.SYS_SYSINFO, mapPage(other)); r != 0 || e != 0 {
				t.Errorf("another container: %d, %v", r, e)
			}
		}
		if end == "killed" {
			c.Kill()
			f.release <- struct{}{}
			continue // its listener ends: addCaller checks that
		}
		f.release <- struct{}{}
		if r, e := stuck.Wait(); r != 0 || e != 0 || !bytes.Equal(c.Peek(uintptr(addr), maxSysinfo), appendSysinfo64(nil, &v.info)) {
			t.Errorf("with the page: %d, %v", r, e)
		}
	}
}

// TestCallersThatEndMeanwhile are gone when their numbers are there. Their ids may be those
// of others by then, and nothing may be written to these.
func TestCallersThatEndMeanwhile(t *testing.T) {
	for name, end := range map[string]func(*seccomptest.Caller){"killed": (*seccomptest.Caller).Kill, "executes": (*seccomptest.Caller).Exec} {
		for _, opened := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", memory open ", opened), func(t *testing.T) {
				a := NewAgent(newFakeView(), slog.New(slog.DiscardHandler))
				c := seccomptest.Start(t, Calls()...)
				c.Go(unix.SYS_SYSINFO, mapPage(c))
				var n seccomp.Notification
				if err := c.Listener.Receive(&n); err != nil {
					t.Fatal(err)
				}
				th := caller{tid: int(n.TID), memory: -1, valid: func() bool { return c.Listener.Valid(n.ID) }}
				defer th.close()
				if opened {
					if err := th.open(); err != nil {
						t.Fatal(err)
					}
				}
				end(c)
				for begun := time.Now(); th.valid(); time.Sleep(time.Millisecond) {
					if time.Since(begun) > seccomptest.Patience {
						t.Fatal("the caller is still there")
					}
				}
				if !opened {
					// Whoever has the id now: here it is this test.
					th.tid = unix.Getpid()
				}
				resp := newAnswerer(a).answer(&n, &th)
				if !opened {
					wantOutcome(t, a, "sysinfo/gone", 1)
				}
				if err := c.Listener.Send(&resp); err != unix.ENOENT {
					t.Errorf("send: %v instead of ENOENT", err)
				}
			})
		}
	}
}
