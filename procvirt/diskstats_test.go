// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/procfs/blockdevice"

	"vprocfs/procvirt/cgroup"
)

// diskstatsOracle reads what was rendered, by the names of the devices.
func diskstatsOracle(tb testing.TB, text []byte) map[string]blockdevice.Diskstats {
	tb.Helper()
	dir := tb.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "diskstats"), text, 0o644); err != nil {
		tb.Fatal(err)
	}
	fs, err := blockdevice.NewFS(dir, dir)
	if err != nil {
		tb.Fatal(err)
	}
	all, err := fs.ProcDiskstats()
	if err != nil {
		tb.Fatalf("prometheus/procfs on diskstats: %v\n%s", err, text)
	}
	byName := map[string]blockdevice.Diskstats{}
	for _, d := range all {
		byName[d.DeviceName] = d
	}
	return byName
}

func TestDiskstatsOfV1AndV2AreTheGroups(t *testing.T) {
	// what the captures' io.stat and blkio files say of the container
	for name, want := range map[string]blockdevice.IOStats{
		"trixie-v2":       {ReadIOs: 18, ReadSectors: 32772, WriteIOs: 73, WriteSectors: 32768},
		"bullseye-v1":     {ReadIOs: 18, ReadSectors: 32772, WriteIOs: 71, WriteSectors: 140},
		"bookworm-hybrid": {},
	} {
		h := load(t, name)
		v := fixtureRegistry(t, h, nil)
		text := render(t, v, "diskstats", subject(t, h, h.Roles["child"]))
		d, ok := diskstatsOracle(t, text)["vda"]
		if used := want != (blockdevice.IOStats{}); ok != used || d.IOStats != want {
			t.Errorf("%s: %+v, want %+v:\n%s", name, d.IOStats, want, text)
		}
		if ok && (d.MajorNumber != 253 || d.MinorNumber != 0 || d.IoStatsCount != 20) {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func TestDiskstatsHasTheHostsFieldsAndDevices(t *testing.T) {
	const host = "   8       0 sda 9 9 9 9 9 9 9 9 9 9 9\n" + // before 4.18
		"   8      16 sdb 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n" + // before 5.5
		"   8      17 sdb1 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n" + // a partition
		" 259       0 nvme0n1 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n" + // some day
		" 253       0 dm-0 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n"
	io := func(major, minor uint32) cgroup.DiskIO {
		return cgroup.DiskIO{
			Major: major, Minor: minor, Reads: 1, Writes: 2, Discards: 3,
			ReadBytes: 4 * 512, WriteBytes: 5*512 + 511, DiscardBytes: 6 * 512,
		}
	}
	v := &diskstats{host: []byte(host), disks: []cgroup.DiskIO{io(7, 0), io(8, 0), io(8, 16), io(259, 0)}}
	const want = "   8       0 sda 1 0 4 0 2 0 5 0 0 0 0\n" +
		"   8      16 sdb 1 0 4 0 2 0 5 0 0 0 0 3 0 6 0\n" +
		" 259       0 nvme0n1 1 0 4 0 2 0 5 0 0 0 0 3 0 6 0 0 0 0 0\n"
	if got := string(v.append(nil)); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// FuzzDiskstats gives a host any devices and a group any I/O.
func FuzzDiskstats(f *testing.F) {
	f.Add("   8       0 sda 9 9 9 9 9 9 9 9 9 9 9\n", uint32(8), uint32(0), uint64(1), uint64(1<<63))
	f.Add("8 0\n\n8 0 x\n4294967304 0 y 1\n8 x z 1 2 3", uint32(8), uint32(0), ^uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, host string, major, minor uint32, requests, n uint64) {
		v := &diskstats{host: []byte(host), disks: []cgroup.DiskIO{
			{Major: major, Minor: minor, Reads: requests, ReadBytes: n, DiscardBytes: n},
		}}
		out := v.append(nil)
		var hosts []string
		for line := range strings.Lines(host) {
			hosts = append(hosts, line)
		}
		for line := range bytes.Lines(out) {
			got := bytes.FieldsFunc(bytes.TrimSuffix(line, []byte("\n")), func(r rune) bool { return r == ' ' || r == '\t' })
			for len(hosts) > 0 {
				want := strings.FieldsFunc(strings.TrimSuffix(hosts[0], "\n"), func(r rune) bool { return r == ' ' || r == '\t' })
				hosts = hosts[1:]
				if len(want) == len(got) && want[0] == string(got[0]) && want[1] == string(got[1]) && want[2] == string(got[2]) {
					got = nil
					break
				}
			}
			if got != nil {
				t.Fatalf("%q is no line of the host's, in its order:\n%s", line, host)
			}
		}
	})
}

// TestWithoutIOTheHostsDiskstatsIsNotRead: no line of it would be shown.
func TestWithoutIOTheHostsDiskstatsIsNotRead(t *testing.T) {
	h := load(t, "bookworm-hybrid")
	r := fixtureRegistry(t, h, nil)
	r.host["proc/diskstats"].Close()
	r.host["proc/diskstats"] = nil
	if text := render(t, r, "diskstats", subject(t, h, h.Roles["child"])); len(text) != 0 {
		t.Errorf("%q", text)
	}
}
