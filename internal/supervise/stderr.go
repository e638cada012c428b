// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"os"

	"golang.org/x/sys/unix"
)

// stderrName is the name of the file in memory that is the workers' stderr. It is kept
// like their other descriptors, so that what a worker prints when it crashes reaches the
// log even if its holder is dead.
const stderrName = "vprocfs-stderr"

// maxStderr bounds what is copied to the log at once, in bytes.
const maxStderr = 128 << 10

// openStderr makes the file, unless a former holder has.
func (h *Holder) openStderr() {
	if h.files[stderrName] != nil {
		return
	}
	fd, err := unix.MemfdCreate(stderrName, unix.MFD_CLOEXEC)
	if err == nil {
		if _, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_APPEND); err == nil {
			h.files[stderrName] = os.NewFile(uintptr(fd), stderrName)
			return
		}
		unix.Close(fd)
	}
	h.cfg.Log.Warn("workers print to the log themselves, and may wait for its reader", "err", err)
}

// stderr returns what is the workers' stderr.
func (h *Holder) stderr() *os.File {
	if f := h.files[stderrName]; f != nil {
		return f
	}
	return os.Stderr
}

// copyStderr moves what workers have printed to the log.
func (h *Holder) copyStderr() {
	f := h.files[stderrName]
	if f == nil {
		return
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Size == 0 {
		return
	}
	b := make([]byte, min(st.Size, maxStderr))
	n, err := unix.Pread(int(f.Fd()), b, 0)
	if err != nil {
		h.cfg.Log.Error("what a worker printed cannot be read", "err", err)
	}
	if n > 0 {
		_, _ = h.cfg.Output.Write(b[:n]) // a log that cannot be written is no reason to end
	}
	if st.Size > maxStderr {
		h.cfg.Log.Warn("a worker printed more than the log gets", "bytes", st.Size, "copied", n)
	}
	if err := unix.Ftruncate(int(f.Fd()), 0); err != nil {
		h.cfg.Log.Error("what a worker printed stays in memory", "err", err)
	}
}
