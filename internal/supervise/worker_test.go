// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vprocfs/internal/fdconn"
)

// TestACandidateHearsWhatHasChangedSinceItBegan: descriptors that the worker has had
// kept meanwhile, that it was switched off, and that it has crashed.
func TestACandidateHearsWhatHasChangedSinceItBegan(t *testing.T) {
	for _, rest := range []string{"", crashed, toggled, crashed + " " + toggled} {
		sys := realSystem()
		holder, theirs, err := sys.pair()
		if err != nil {
			t.Fatal(err)
		}
		defer holder.Close()
		c, err := fdconn.New(theirs)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		old, err := unix.MemfdCreate("old", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		w := &Worker{Files: map[string]int{"changed": old}, Candidate: true, sys: sys}
		w.control.Store(c)

		for _, name := range []string{"changed", "new"} {
			f, err := os.Create(filepath.Join(t.TempDir(), name))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteString(name); err != nil {
				t.Fatal(err)
			}
			if err := sendFile(holder, msgKeep, name, int(f.Fd())); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := send(holder, msgGo, rest); err != nil {
			t.Fatal(err)
		}
		if err := w.Ready(); err != nil {
			t.Fatal(err)
		}
		if w.Crashed != strings.Contains(rest, crashed) || w.Toggled != strings.Contains(rest, toggled) {
			t.Errorf("after %q: crashed is %t, toggled %t", rest, w.Crashed, w.Toggled)
		}
		if len(w.Files) != 2 {
			t.Errorf("files: %v", w.Files)
		}
		for name, fd := range w.Files {
			b := make([]byte, 10)
			if n, err := unix.Pread(fd, b, 0); err != nil || string(b[:n]) != name {
				t.Errorf("%s is %q, %v", name, b[:max(n, 0)], err)
			}
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("%s: flags %d, %v", name, flags, err)
			}
			unix.Close(fd)
		}
		if m, err := receive(holder); err != nil || m.word != msgReady {
			t.Errorf("%+v, %v", m, err)
		}
	}
}
