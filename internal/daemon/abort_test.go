// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
)

// TestAnAbortNeedsNoFusectlMount, nor that the descriptor of the connection is closed.
func TestAnAbortNeedsNoFusectlMount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("must be run as root")
	}
	dir := t.TempDir()
	conn, err := fs.Mount(dir, fs.MountOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Unmount(dir, unix.MNT_DETACH)
		unix.Close(conn.FD())
	})
	dev, err := fs.DevOf(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !fs.Connected(conn.FD()) {
		t.Fatal("not connected")
	}
	if err := abortConnection(dev); err != nil {
		t.Fatal(err)
	}
	if fs.Connected(conn.FD()) {
		t.Error("connected still")
	}
	if err := abortConnection(dev + 1<<20); err == nil {
		t.Error("a connection that is not there is aborted")
	}
}
