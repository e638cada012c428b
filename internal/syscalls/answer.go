// SPDX-License-Identifier: Apache-2.0

package syscalls

import (
	"bytes"
	"errors"

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
	deed    deed
}

func newAnswerer(a *Agent) *answerer { return &answerer{agent: a} }

// answer returns the response to n, whose thread is c. It makes the kernel carry out the
// call if anything is in the way, a panic too.
func (w *answerer) answer(n *seccomp.Notification, c *caller) (resp seccomp.Response) {
	k, ok := w.plan(n, c, &w.deed)
	if !ok {
		return n.Continue()
	}
	resp, o, err := w.deed.respond(n, c)
	w.agent.record(k, o, err)
	return resp
}

// plan stores in d the answer to notification n of thread c. It does not touch the memory of
// c. It returns false, and has counted why, if the kernel is to carry out the call, as
// after a panic.
func (w *answerer) plan(n *seccomp.Notification, c *caller, d *deed) (k kind, ok bool) {
	k, narrow := kindOf(n.Call)
	defer func() {
		if p := recover(); p != nil {
			w.agent.panicked(k, p)
			ok = false
		}
	}()
	if c.tid == 0 {
		w.agent.record(k, invisible, nil)
		return k, false
	}
	err := w.prepare(k, narrow, n, c, d)
	if err != nil {
		w.agent.record(k, outcomeOf(err), err)
	}
	return k, err == nil
}

func (w *answerer) prepare(k kind, narrow bool, n *seccomp.Notification, c *caller, d *deed) error {
	switch k {
	case sysinfo:
		return w.sysinfo(narrow, c, n.Args[0], d)
	case getAffinity:
		return w.getAffinity(c, int32(n.Args[0]), uint32(n.Args[1]), n.Args[2], d)
	case setAffinity:
		return w.setAffinity(c, int32(n.Args[0]), uint32(n.Args[1]), n.Args[2], d)
	}
	return errLeave
}

func (w *answerer) sysinfo(narrow bool, c *caller, addr uint64, d *deed) error {
	if err := w.agent.view.Sysinfo(c.tid, &w.info); err != nil {
		return err
	}
	b := d.data[:0]
	if narrow {
		b = appendSysinfo32(b, &w.info)
	} else {
		b = appendSysinfo64(b, &w.info)
	}
	d.write(len(b), addr, 0)
	return nil
}

// getAffinity has the mask of a thread written, less the CPUs that the caller's container
// does not see, and how much the kernel would have written returned. If no CPU is left, the
// thread was put on others on purpose, and its own mask shows that.
func (w *answerer) getAffinity(c *caller, id int32, length uint32, addr uint64, d *deed) error {
	if length == 0 || length%8 != 0 {
		return errLeave // the kernel knows what is wrong, and what is enough
	}
	tid, ok := c.thread(int(id))
	if !ok {
		return errLeave
	}
	n, err := schedGetAffinity(tid, w.mask[:min(length, maxMask)])
	if err != nil {
		return errLeave
	}
	if err := w.readVisible(c); err != nil {
		return err
	}
	shown := d.data[:n]
	w.fillVisible(shown)
	some := false
	for i := range shown {
		shown[i] &= w.mask[i]
		some = some || shown[i] != 0
	}
	if !some || bytes.Equal(shown, w.mask[:n]) {
		return errLeave
	}
	d.write(n, addr, int64(n))
	return nil
}

// setAffinity has the caller put on all CPUs of its cpuset if it asks for those that it sees,
// as a program does that goes back to what sched_getaffinity(2) had returned. With the
// mask as it stands the program would be pinned to CPUs that only stand for a quota.
func (w *answerer) setAffinity(c *caller, id int32, length uint32, addr uint64, d *deed) error {
	if length == 0 {
		return errLeave
	}
	if tid, ok := c.thread(int(id)); !ok || tid != c.tid {
		return errLeave // it may not be allowed to
	}
	if err := w.readVisible(c); err != nil {
		return err
	}
	w.fillVisible(d.data[:])
	d.restore(int(min(length, maxMask)), addr)
	return nil
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
