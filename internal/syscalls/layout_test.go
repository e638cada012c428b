// SPDX-License-Identifier: Apache-2.0

package syscalls

import (
	"encoding/binary"
	"math"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"vprocfs/internal/seccomp"
	"vprocfs/procvirt"
)

func numbers() procvirt.Sysinfo {
	return procvirt.Sysinfo{
		Uptime: 4711, Loads: [3]uint64{65536, 32768, 3277}, TotalRAM: 300 << 20, FreeRAM: 200 << 20, SharedRAM: 5 << 20, BufferRAM: 6 << 20,
		TotalSwap: 100 << 20, FreeSwap: 50 << 20, Threads: 17,
	}
}

// TestSysinfo64IsTheStructOfTheKernel compares with the struct of x/sys.
func TestSysinfo64IsTheStructOfTheKernel(t *testing.T) {
	s := numbers()
	s.TotalRAM = 1 << 50
	b := appendSysinfo64(nil, &s)
	if len(b) != maxSysinfo || unsafe.Sizeof(unix.Sysinfo_t{}) != maxSysinfo {
		t.Fatalf("%d bytes", len(b))
	}
	got := *(*unix.Sysinfo_t)(unsafe.Pointer(&b[0]))
	want := unix.Sysinfo_t{
		Uptime: int64(s.Uptime), Loads: s.Loads, Totalram: s.TotalRAM, Freeram: s.FreeRAM, Sharedram: s.SharedRAM, Bufferram: s.BufferRAM,
		Totalswap: s.TotalSwap, Freeswap: s.FreeSwap, Procs: 17, Unit: 1,
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// word32 is what is at an offset of struct sysinfo of 32 bits.
func word32(b []byte, offset int) uint32 { return binary.LittleEndian.Uint32(b[offset:]) }

func TestSysinfo32(t *testing.T) {
	s := numbers()
	b := appendSysinfo32(nil, &s)
	if len(b) != 64 || word32(b, 0) != 4711 || word32(b, 4) != 65536 || word32(b, 16) != 300<<20 || word32(b, 32) != 100<<20 ||
		binary.LittleEndian.Uint16(b[40:]) != 17 || word32(b, 52) != 1 {
		t.Errorf("%x", b)
	}
	page := uint64(unix.Getpagesize())
	for _, change := range []func(){
		func() { s.TotalRAM = 4 << 30 }, func() { s.TotalRAM, s.TotalSwap = 1<<30, 4<<30 },
	} {
		change()
		b = appendSysinfo32(nil, &s)
		if uint64(word32(b, 52)) != page || uint64(word32(b, 16)) != s.TotalRAM/page || uint64(word32(b, 20)) != s.FreeRAM/page ||
			uint64(word32(b, 32)) != s.TotalSwap/page {
			t.Errorf("%+v: %x", s, b)
		}
	}
	s = procvirt.Sysinfo{Uptime: math.MaxUint64, Threads: math.MaxUint64, TotalRAM: math.MaxUint64 &^ 1023, Loads: [3]uint64{math.MaxUint64}}
	b = appendSysinfo32(nil, &s)
	if word32(b, 0) != math.MaxUint32 || word32(b, 4) != math.MaxUint32 || word32(b, 16) != math.MaxUint32 || word32(b, 40) != math.MaxUint16 {
		t.Errorf("%x", b)
	}
	if b := appendSysinfo64(nil, &s); len(b) != maxSysinfo {
		t.Errorf("%x", b)
	}
}

func TestOnlyKnownCallsAreAnswered(t *testing.T) {
	for _, c := range Calls() {
		if k, _ := kindOf(c); k == unknown {
			t.Errorf("%+v is in the filter, and not known", c)
		}
	}
	for _, c := range []seccomp.Call{
		{NR: 99 | 1<<30, Arch: unix.AUDIT_ARCH_X86_64}, // x32
		{NR: 99, Arch: unix.AUDIT_ARCH_I386}, {NR: 116, Arch: unix.AUDIT_ARCH_X86_64}, {NR: 116, Arch: unix.AUDIT_ARCH_ARM},
		{NR: 179, Arch: unix.AUDIT_ARCH_X86_64}, {NR: 99, Arch: unix.AUDIT_ARCH_AARCH64}, {NR: 116, Arch: unix.AUDIT_ARCH_S390X}, {},
	} {
		if k, _ := kindOf(c); k != unknown {
			t.Errorf("%+v is %v", c, k)
		}
	}
}
