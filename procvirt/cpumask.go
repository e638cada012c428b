package procvirt

import "strconv"

// The files of /sys/devices/system/cpu that list CPUs (drivers/base/cpu.c). The
// container's are a machine whose CPUs run from 0 to the highest that it may run
// on: so an array that is sized by the possible CPUs covers every number that
// sched_getcpu(3) can return, and those that it does not see are offline.

func (v *Views) gatherCPUMask(c *container, sp *space, w *View, x *scratch) error {
	if c.cpu == nil {
		return c.missing(needCPU)
	}
	if err := v.gatherCPUs(c, sp, w, x); err != nil {
		return err
	}
	w.findOffline()
	return nil
}

// findOffline sets Offline.
func (v *View) findOffline() {
	v.Offline.Clear()
	for c := range v.LastCPU + 1 {
		if !v.Visible.Has(c) {
			v.Offline.Add(c)
		}
	}
}

func appendCPUOnline(dst []byte, v *View) []byte {
	return append(v.Visible.AppendList(dst), '\n')
}

// appendCPUPresent makes present and possible, which are the same.
func appendCPUPresent(dst []byte, v *View) []byte {
	dst = append(dst, '0')
	if v.LastCPU > 0 {
		dst = append(dst, '-')
		dst = strconv.AppendInt(dst, int64(v.LastCPU), 10)
	}
	return append(dst, '\n')
}

// appendCPUOffline makes an empty line where all CPUs are online, as the kernel
// does.
func appendCPUOffline(dst []byte, v *View) []byte {
	return append(v.Offline.AppendList(dst), '\n')
}

// LastCPU returns the number of the highest CPU that the subject may run on,
// which is the highest of its possible ones. ok is false where the subject has no
// view of its own, and a Reason is counted for CPUPossible. The only error is
// ErrCold, as Append's.
func (v *Views) LastCPU(s *Subject, wait bool) (cpu int, ok bool, err error) {
	x := v.scratch.Get().(*scratch)
	defer v.scratch.Put(x)
	err = v.gather(CPUPossible, s, x, wait)
	switch {
	case err == nil:
		return x.view.LastCPU, true, nil
	case err == ErrCold:
		return 0, false, ErrCold
	}
	v.NoteFallback(CPUPossible, reasonOf(err), err)
	return 0, false, nil
}
