// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The types are what is used of the OCI runtime specification (config.json, 1.0).
type (
	bundle struct {
		Version string      `json:"ociVersion"`
		Process process     `json:"process"`
		Root    bundleRoot  `json:"root"`
		Mounts  []bindMount `json:"mounts"`
		Hooks   hooks       `json:"hooks,omitzero"`

		Annotations map[string]string `json:"annotations,omitempty"`
		Linux       linux             `json:"linux"`
	}
	hooks map[string][]hook // by stage
	hook  struct {
		Path string   `json:"path"`
		Args []string `json:"args"`
		Env  []string `json:"env,omitempty"`
	}
	process struct {
		Terminal bool `json:"terminal,omitempty"`

		Args []string `json:"args"`
		Env  []string `json:"env"`
		Cwd  string   `json:"cwd"`
		// Capabilities are by the names of their sets; without it there are none.
		Capabilities map[string][]string `json:"capabilities,omitempty"`
	}
	bundleRoot struct {
		Path string `json:"path"`
	}
	bindMount struct {
		Destination string   `json:"destination"`
		Type        string   `json:"type"`
		Source      string   `json:"source"`
		Options     []string `json:"options,omitempty"`
	}
	namespace struct {
		Type string `json:"type"`
	}
	linux struct {
		CgroupsPath string      `json:"cgroupsPath"`
		Namespaces  []namespace `json:"namespaces"`
		MaskedPaths []string    `json:"maskedPaths"`
		Resources   resources   `json:"resources"`
	}
	resources struct {
		Memory struct {
			Limit int64 `json:"limit"`
		} `json:"memory"`
		CPU struct {
			Quota  int64 `json:"quota"`
			Period int64 `json:"period"`
		} `json:"cpu"`
	}
)

// refusedByRunc are the names in /proc over which runc lets nothing be bound, beside
// directories.
var refusedByRunc = []string{"cgroups", "vmstat"}

// servedFiles are the names of the files in /proc that the daemon at dir serves,
// without the directory, over which runc lets nothing be bound.
func servedFiles(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "proc"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// busyboxRoot makes a root directory with nothing but busybox.
func busyboxRoot(t testing.TB) string {
	t.Helper()
	need(t, "busybox", "busybox-static")
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for _, dir := range []string{"bin", "proc", "dev", "sys", "tmp", "etc"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	from, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(root, "bin/busybox"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil { // before it is executed
		t.Fatal(err)
	}
	return root
}

// show is what a container of another's runtime runs: it reads the files with
// busybox, once it has lived for a second, and then tries to write to them.
const show = "busybox sleep 1; busybox cat /proc/meminfo; echo -; busybox cat /proc/stat; echo -; busybox cat /proc/uptime; echo -; " +
	"busybox cat " + cpuDir + "/online; busybox ls " + cpuDir + "/cpu0/topology; echo -; " +
	"for f in /proc/uptime /proc/stat " + cpuDir + "/online; do (echo 1 > $f) 2>&1; done; :"

// checkShown judges what show has printed in a container of 64 MiB and half a
// CPU, begun at most seconds ago.
func checkShown(t *testing.T, out string, seconds float64) {
	t.Helper()
	parts := strings.Split(out, "-\n")
	if len(parts) != 5 {
		t.Fatalf("the container says:\n%s", out)
	}
	if got := memTotal(t, parts[0]); got != 64 {
		t.Errorf("MemTotal %d MiB, want 64", got)
	}
	if got := statCPUs(t, parts[1]); len(got) != 1 {
		t.Errorf("rows of CPUs %v, want one", got)
	}
	if up := floats(t, parts[2])[0]; up < 1 || up > seconds {
		t.Errorf("uptime %.2f, want 1 to %.2f", up, seconds)
	}
	if online := cpuList(t, parts[3]); !slices.Equal(online, statCPUs(t, parts[1])) {
		t.Errorf("online are the CPUs %v, want those of stat, and nothing in a directory that is masked", online)
	}
	if n := strings.Count(parts[4], "Read-only file system\n"); n != 3 || strings.Count(parts[4], "\n") != 3 {
		t.Errorf("writing to three files: %s", parts[4])
	}
}

// writeBundle makes a container of 64 MiB and half a CPU with the daemon's files
// over its /proc and /sys, bound with the option ro or rw, or none where dir is
// empty.
func writeBundle(t *testing.T, dir, name, option string) string {
	t.Helper()
	b := bundle{
		Version: "1.0.2",
		Process: process{Args: []string{"/bin/busybox", "sh", "-c", show}, Env: []string{"PATH=/bin"}, Cwd: "/"},
		Root:    bundleRoot{busyboxRoot(t)},
		Mounts: []bindMount{
			{"/proc", "proc", "proc", nil},
			{"/dev", "tmpfs", "tmpfs", []string{"nosuid", "mode=755"}}, // the root may be on a mount with nodev
			{"/sys", "bind", "/sys", []string{"rbind", "ro"}},
		},
		Linux: linux{
			CgroupsPath: "/" + name, Namespaces: []namespace{{"pid"}, {"mount"}, {"ipc"}, {"uts"}},
			// Docker masks a directory of each CPU of the host.
			MaskedPaths: []string{cpuDir + "/cpu0/topology", cpuDir + "/cpu8191/topology"},
		},
	}
	var files []string
	if dir != "" {
		b.Mounts = append(b.Mounts, bindMount{cpuDir, "bind", dir + cpuDir, []string{"bind", option}})
		files = slices.DeleteFunc(servedFiles(t, dir), func(f string) bool { return slices.Contains(refusedByRunc, f) })
	}
	for _, file := range files {
		b.Mounts = append(b.Mounts, bindMount{"/proc/" + file, "bind", filepath.Join(dir, "proc", file), []string{"bind", option}})
	}
	b.Linux.Resources.Memory.Limit = 64 << 20
	b.Linux.Resources.CPU.Quota, b.Linux.Resources.CPU.Period = 50_000, 100_000
	at := t.TempDir()
	writeConfig(t, at, b)
	return at
}

// readConfig returns the config.json of the bundle at a directory.
func readConfig(t *testing.T, at string) (b bundle) {
	t.Helper()
	if err := json.Unmarshal([]byte(readFile(t, at+"/config.json")), &b); err != nil {
		t.Fatal(err)
	}
	return b
}

// writeConfig writes the config.json of the bundle at a directory.
func writeConfig(t *testing.T, at string, b bundle) {
	t.Helper()
	text, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at+"/config.json", text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// withoutEmptyV2 is a shell script that runs its arguments where they see no v2
// tree beside v1 hierarchies: crun takes any such for the one to use.
const withoutEmptyV2 = `
if grep -q '^[^ ]* [^ ]* cgroup ' /proc/mounts; then
	awk '$3 == "cgroup2" { print $2 }' /proc/mounts | while read -r dir; do busybox umount "$dir"; done
fi
exec "$@"`

// hidingV2 makes a command line of another one, which is then free to mount.
func hidingV2(command ...string) []string {
	return append([]string{"unshare", "--mount", "--propagation", "private", "sh", "-euc", withoutEmptyV2, "sh"}, command...)
}

// TestRuntimesStartContainersWithTheFiles also has them bound read-write, as the
// command lines do that are published for LXCFS (-v FILE:FILE:rw).
func TestRuntimesStartContainersWithTheFiles(t *testing.T) {
	dir, _ := serve(t)
	for _, tt := range []struct{ runtime, option string }{{"runc", "ro"}, {"runc", "rw"}, {"crun", "ro"}, {"crun", "rw"}} {
		t.Run(tt.runtime+" "+tt.option, func(t *testing.T) {
			need(t, tt.runtime, tt.runtime)
			name := fmt.Sprintf("vprocfs-test-%s-%d", tt.runtime, os.Getpid())
			began := boottime(t)
			command := []string{tt.runtime, "--root", t.TempDir(), "run", "--bundle", writeBundle(t, dir, name, tt.option), name}
			if tt.runtime == "crun" {
				command = hidingV2(command...)
			}
			out, err := exec.Command(command[0], command[1:]...).Output()
			if err != nil {
				t.Fatal(failure(err))
			}
			checkShown(t, string(out), boottime(t)-began)
		})
	}
}

// failure adds what a program said to its error.
func failure(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return err
}

func TestPodmanStartsContainersWithTheFiles(t *testing.T) {
	dir, _ := serve(t)
	var mounts []string
	for _, file := range servedFiles(t, dir) {
		mounts = append(mounts, "--mount", fmt.Sprintf("type=bind,source=%s,target=/proc/%s,readonly", filepath.Join(dir, "proc", file), file))
	}
	mounts = append(mounts, "--mount", fmt.Sprintf("type=bind,source=%s,target=%s,readonly", dir+cpuDir, cpuDir))
	podmanShows(t, nil, mounts)
}

// podmanShows runs a container of 64 MiB and half a CPU with podman and crun, with
// options for podman and for its verb run, and checks that it sees itself.
func podmanShows(t *testing.T, global, options []string) {
	t.Helper()
	p := newPodman(t)
	began := boottime(t)
	options = append(options, "--security-opt", "mask="+cpuDir+"/cpu0/topology")
	out, err := p.run(global, options, "/bin/busybox", "sh", "-c", show).Output()
	if err != nil {
		t.Fatal(failure(err))
	}
	checkShown(t, string(out), boottime(t)-began)
}

// podman starts containers of 64 MiB and half a CPU with podman and crun.
type podman struct{ state, parent, root string }

func newPodman(t *testing.T) *podman {
	t.Helper()
	need(t, "podman", "podman")
	need(t, "crun", "crun")
	state, err := os.MkdirTemp("/run", "vp") // podman wants a path of at most 50 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	parent := fmt.Sprintf("/vprocfs-test-podman-%d", os.Getpid())
	t.Cleanup(func() {
		for line := range strings.Lines(readFile(t, "/proc/mounts")) {
			if f := strings.Fields(line); f[2] == "cgroup" || f[2] == "cgroup2" {
				removeGroup(t, f[1]+parent+"/conmon")
				removeGroup(t, f[1]+parent)
			}
		}
	})
	return &podman{state, parent, busyboxRoot(t)}
}

// run is the command line of podman run with global options, options of run, and the
// program of the container.
func (p *podman) run(global, options []string, program ...string) *exec.Cmd {
	return p.runImage(global, slices.Concat(options, []string{"--rootfs", p.root}), program...)
}

// runImage is run for an image, which is the last of the options.
func (p *podman) runImage(global, options []string, program ...string) *exec.Cmd {
	return p.command(slices.Concat(global, []string{
		"run", "--rm", "--network", "none", "--memory", "64m", "--cpus", "0.5", "--log-driver", "none",
		"--cgroup-parent", p.parent,
		// More than root may have without CAP_SYS_RESOURCE is podman's default.
		"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096",
	}, options, program)...)
}

// command is a command line of podman with a storage of the test's own.
func (p *podman) command(args ...string) *exec.Cmd {
	command := hidingV2(slices.Concat([]string{
		"podman", "--root", filepath.Join(p.state, "root"), "--runroot", filepath.Join(p.state, "run"), "--tmpdir", filepath.Join(p.state, "tmp"),
		"--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", "crun",
	}, args)...)
	return exec.Command(command[0], command[1:]...)
}
