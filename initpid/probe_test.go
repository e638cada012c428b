// SPDX-License-Identifier: Apache-2.0

package initpid

import (
	"os"
	"testing"
)

func TestProbeAgreesWithKernelRelease(t *testing.T) {
	want := Parents
	if hasIoctl(t) {
		want = Ioctl
	}
	if m := newResolver(t, Config{}).by; m != want {
		t.Errorf("auto is %v on this kernel, want %v", m, want)
	}
	// Some other file answers the ioctl as an old kernel does.
	null, err := os.Open("/dev/null")
	must(err)
	defer null.Close()
	err = probeIoctl(int(null.Fd()))
	wantErr(t, "probe", err, ErrUnsupported)
	r := &Resolver{hostfd: int(null.Fd()), forks: &forker{}, log: newResolver(t, Config{}).log}
	wantErr(t, "ioctl forced on an old kernel", r.choose(Ioctl), ErrUnsupported)
	if err := r.choose(Auto); err != nil || r.by != Parents {
		t.Errorf("auto on an old kernel: %v, %v; want parents", r.by, err)
	}
}

func TestNamespacesHaveIDsFromLinux618On(t *testing.T) {
	a := startContainer(t, "init", newPIDNS)
	init, err := newResolver(t, Config{}).Resolve(a.pid)
	if err != nil {
		t.Fatal(err)
	}
	if want := kernelIs(t, 6, 18); (init.ID != 0) != want {
		t.Errorf("id %d; that this kernel has ids is %t", init.ID, want)
	}
}

func TestMethodIsAFlagValue(t *testing.T) {
	for _, s := range []string{"auto", "ioctl", "fork"} {
		var m Method
		if err := m.Set(s); err != nil || m.String() != s {
			t.Errorf("Set(%q): %v, %v", s, m, err)
		}
	}
	for _, s := range []string{"", "cache", "host", "Fork"} {
		var m Method
		if m.Set(s) == nil {
			t.Errorf("Set(%q) is no error", s)
		}
	}
	for _, m := range []Method{Cache, Host, 99} {
		if r, err := New(Config{Method: m}); err == nil {
			r.Close()
			t.Errorf("New with method %v is no error", m)
		}
	}
}

func TestProcMustBeOurs(t *testing.T) {
	for _, root := range []string{"/", "/dev/null", "/nonexistent"} {
		if r, err := New(Config{Proc: root}); err == nil {
			r.Close()
			t.Errorf("New with %s as /proc is no error", root)
		}
	}
}
