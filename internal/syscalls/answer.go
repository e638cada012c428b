package syscalls

import (
	"bytes"
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"

	"vprocfs/internal/seccomp"
	"vprocfs/procvirt"
	"vprocfs/procvirt/cgroup"
)

// errLeave says that the kernel's answer is right as it is.
var errLeave = errors.New("nothing to change")

// maxMask is the size of the largest mask of CPUs in the kernel, in bytes.
const maxMask = cgroup.MaxCPUs / 8

// answerer answers one call after another, in memory of its own. Not safe for concurrent
// use.
type answerer struct {
	agent *Agent
	// Of the call at hand. Nothing is read from them that it has not written before.
	info    procvirt.Sysinfo
	visible cgroup.CPUs
	mask    [maxMask]byte
	other   [maxMask]byte
	buf     []byte
}

func newAnswerer(a *Agent) *answerer {
	return &answerer{agent: a, buf: make([]byte, 0, maxSysinfo)}
}

// answer returns the response to n, whose thread is c. It makes the kernel carry out the
// call if anything is in the way, a panic too.
func (w *answerer) answer(n *seccomp.Notification, c *caller) (resp seccomp.Response) {
	k, narrow := kindOf(n.Call)
	resp = n.Continue()
	defer func() {
		if p := recover(); p != nil {
			w.agent.panicked(k, p)
		}
	}()
	if c.tid == 0 {
		w.agent.count(k, invisible)
		return resp
	}
	v, err := w.value(k, narrow, n, c)
	switch {
	case err == nil:
		resp = n.Return(v)
		w.agent.count(k, answered)
	case errors.Is(err, errLeave):
		w.agent.count(k, left)
	case errors.Is(err, errGone):
		w.agent.count(k, gone)
	default:
		w.agent.failed(k, err)
	}
	return resp
}

// value does what the call is to do, and returns what it is to return.
func (w *answerer) value(k kind, narrow bool, n *seccomp.Notification, c *caller) (int64, error) {
	switch k {
	case sysinfo:
		return 0, w.sysinfo(narrow, c, n.Args[0])
	case getAffinity:
		return w.getAffinity(c, int32(n.Args[0]), uint32(n.Args[1]), n.Args[2])
	case setAffinity:
		return 0, w.setAffinity(c, int32(n.Args[0]), uint32(n.Args[1]), n.Args[2])
	}
	return 0, errLeave
}

func (w *answerer) sysinfo(narrow bool, c *caller, addr uint64) error {
	if err := w.agent.view.Sysinfo(c.tid, &w.info); err != nil {
		return err
	}
	w.buf = w.buf[:0]
	if narrow {
		w.buf = appendSysinfo32(w.buf, &w.info)
	} else {
		w.buf = appendSysinfo64(w.buf, &w.info)
	}
	return c.write(w.buf, addr)
}

// getAffinity writes the mask of a thread, less the CPUs that the caller's container does not
// see, and returns how much the kernel would have written. If no CPU is left, the thread was
// put on others on purpose, and its own mask shows that.
func (w *answerer) getAffinity(c *caller, id int32, length uint32, addr uint64) (int64, error) {
	if length == 0 || length%8 != 0 {
		return 0, errLeave // the kernel knows what is wrong, and what is enough
	}
	tid, ok := c.thread(int(id))
	if !ok {
		return 0, errLeave
	}
	n, err := schedGetAffinity(tid, w.mask[:min(length, maxMask)])
	if err != nil {
		return 0, errLeave
	}
	if err := w.readVisible(c); err != nil {
		return 0, err
	}
	shown := w.other[:n]
	w.fillVisible(shown)
	some := false
	for i := range shown {
		shown[i] &= w.mask[i]
		some = some || shown[i] != 0
	}
	if !some || bytes.Equal(shown, w.mask[:n]) {
		return 0, errLeave
	}
	return int64(n), c.write(shown, addr)
}

// setAffinity puts the caller on all CPUs of its cpuset if it asks for those that it sees,
// as a program does that goes back to what sched_getaffinity(2) had returned. With the
// mask as it stands the program would be pinned to CPUs that only stand for a quota.
func (w *answerer) setAffinity(c *caller, id int32, length uint32, addr uint64) error {
	if length == 0 {
		return errLeave
	}
	if tid, ok := c.thread(int(id)); !ok || tid != c.tid {
		return errLeave // it may not be allowed to
	}
	if err := w.readVisible(c); err != nil {
		return err
	}
	asked, shown := w.mask[:min(length, maxMask)], w.other[:]
	w.fillVisible(shown)
	if err := c.read(asked, addr); err != nil {
		return err
	}
	if !bytes.Equal(asked, shown[:len(asked)]) || len(bytes.Trim(shown[len(asked):], "\x00")) > 0 {
		return errLeave
	}
	for i := range w.other {
		w.other[i] = 0xff
	}
	if !c.valid() {
		return errGone
	}
	return schedSetAffinity(c.tid, w.other[:])
}

// readVisible sets visible to the CPUs that the caller's container sees.
func (w *answerer) readVisible(c *caller) error {
	ok, err := w.agent.view.VisibleCPUs(c.tid, &w.visible)
	if err == nil && !ok {
		err = errLeave
	}
	return err
}

// fillVisible makes mask the CPUs that the container sees.
func (w *answerer) fillVisible(mask []byte) {
	clear(mask)
	for cpu := w.visible.Next(0); cpu >= 0 && cpu/8 < len(mask); cpu = w.visible.Next(cpu + 1) {
		mask[cpu/8] |= 1 << (cpu % 8)
	}
}

// schedGetAffinity sets mask to the CPUs of a thread, and returns the size of the kernel's
// own mask, or of mask if that is smaller.
func schedGetAffinity(tid int, mask []byte) (int, error) {
	n, _, e := unix.Syscall(unix.SYS_SCHED_GETAFFINITY, uintptr(tid), uintptr(len(mask)), uintptr(unsafe.Pointer(&mask[0])))
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

func schedSetAffinity(tid int, mask []byte) error {
	_, _, e := unix.Syscall(unix.SYS_SCHED_SETAFFINITY, uintptr(tid), uintptr(len(mask)), uintptr(unsafe.Pointer(&mask[0])))
	if e != 0 {
		return e
	}
	return nil
}
