// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cdi "tags.cncf.io/container-device-interface/specs-go"
)

// ociRuntimes are the runtimes that the tests of hooks start containers with.
var ociRuntimes = []string{"runc", "crun"}

// ociCommand returns the command line of an OCI runtime that has its state at root.
func ociCommand(t *testing.T, runtime, root string, args ...string) *exec.Cmd {
	t.Helper()
	need(t, runtime, runtime)
	command := append([]string{runtime, "--root", root}, args...)
	if runtime == "crun" {
		command = hidingV2(command...)
	}
	return exec.Command(command[0], command[1:]...)
}

// vprocfsPath returns the path of the binary, for programs that have another PATH.
func vprocfsPath(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("vprocfs")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// runBundle runs the container of a bundle and returns what it prints to stdout.
func runBundle(t *testing.T, runtime, at string) string {
	t.Helper()
	name := fmt.Sprintf("vprocfs-test-%s-%d", filepath.Base(at), os.Getpid())
	cmd := ociCommand(t, runtime, t.TempDir(), "run", "--bundle", at, name)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(failure(err))
	}
	return string(out)
}

// hookedBundle makes a bundle whose container has the hook at a stage, with stderr in
// the file hook.log beside config.json.
func hookedBundle(t *testing.T, runtime, stage string, command ...string) (at string) {
	t.Helper()
	at = writeBundle(t, "", fmt.Sprintf("vprocfs-hook-%s-%d", runtime, time.Now().UnixNano()), "")
	b := readConfig(t, at)
	script := fmt.Sprintf(`exec "$@" 2>>%s/hook.log`, at)
	b.Hooks = hooks{stage: {{"/bin/sh", append([]string{"sh", "-c", script, "sh"}, command...), []string{"PATH=" + os.Getenv("PATH")}}}}
	writeConfig(t, at, b)
	return at
}

func TestHookIsInTimeForTheFirstRead(t *testing.T) {
	dir, _ := serve(t)
	for _, runtime := range ociRuntimes {
		t.Run(runtime, func(t *testing.T) {
			at := hookedBundle(t, runtime, "createRuntime", vprocfsPath(t), "hook", "--mount", dir)
			began := boottime(t)
			out := runBundle(t, runtime, at)
			checkShown(t, out, boottime(t)-began)
			if log := readFile(t, at+"/hook.log"); log != "" {
				t.Errorf("the hook says: %s", log)
			}
		})
	}
}

// TestHookBringsWhatRuncRefusesToMount is about the files that are not on runc's list
// of those that may be mounted in /proc.
func TestHookBringsWhatRuncRefusesToMount(t *testing.T) {
	dir, _ := serve(t)
	at := hookedBundle(t, "runc", "createRuntime", vprocfsPath(t), "hook", "--mount", dir)
	b := readConfig(t, at)
	b.Process.Args = []string{"/bin/busybox", "cat", "/proc/self/mountinfo"}
	writeConfig(t, at, b)
	out := runBundle(t, "runc", at)
	for _, name := range attachable(t, dir) {
		if !strings.Contains(out, " /proc/"+name+" ") {
			t.Errorf("/proc/%s is not mounted:\n%s", name, out)
		}
	}
}

func TestHookLeavesAContainerAloneThatSaysSo(t *testing.T) {
	dir, _ := serve(t)
	at := hookedBundle(t, "runc", "createRuntime", vprocfsPath(t), "hook", "--mount", dir)
	b := readConfig(t, at)
	b.Annotations = map[string]string{"vprocfs.io/view": "off"}
	b.Process.Args = []string{"/bin/busybox", "cat", "/proc/self/mountinfo"}
	writeConfig(t, at, b)
	if out := runBundle(t, "runc", at); strings.Contains(out, "fuse.vprocfs") {
		t.Errorf("mounted:\n%s", out)
	}
}

// TestHookNeverKeepsAContainerFromStarting is about a daemon that is not there, one
// that does not answer, and stages at which a hook can do nothing.
func TestHookNeverKeepsAContainerFromStarting(t *testing.T) {
	dir, _ := serve(t)
	frozen, worker := serve(t)
	t.Cleanup(func() { unix.Kill(worker, unix.SIGCONT) })
	unix.Kill(worker, unix.SIGSTOP)
	for _, tt := range []struct{ name, stage, dir, want string }{
		{"no daemon", "createRuntime", t.TempDir(), "statfs"},
		{"a daemon that hangs", "createRuntime", frozen, "does not answer in 1s"},
		{"another stage", "createContainer", dir, "belongs to the stage createRuntime"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			at := hookedBundle(t, "runc", tt.stage, vprocfsPath(t), "hook", "--no-such-flag", "--mount", tt.dir)
			b := readConfig(t, at)
			b.Process.Args = []string{"/bin/busybox", "cat", "/proc/meminfo"}
			writeConfig(t, at, b)
			out := runBundle(t, "runc", at)
			if got, want := meminfo(t, out)["MemTotal"], meminfo(t, readFile(t, "/proc/meminfo"))["MemTotal"]; got != want {
				t.Errorf("MemTotal %d kB, want the host's %d", got, want)
			}
			log := readFile(t, at+"/hook.log")
			if strings.Count(log, "\n") != 1 || !strings.HasPrefix(log, "vprocfs: hook: container \"vprocfs-test-") || !strings.Contains(log, tt.want) {
				t.Errorf("the hook says %q, want one line with %q", log, tt.want)
			}
		})
	}
}

func TestHookWithoutAStateSaysWhoRunsIt(t *testing.T) {
	for _, in := range []string{"", "{}", "[", `{"pid": 5}`} {
		cmd := exec.Command(vprocfsPath(t), "hook")
		cmd.Stdin = strings.NewReader(in)
		out, err := cmd.CombinedOutput()
		if want := "vprocfs: hook: stdin has no OCI state of a container: the container runtime runs this command\n"; err != nil || string(out) != want {
			t.Errorf("%q: %v, %q", in, err, out)
		}
	}
}

// TestAttachRefusesAContainerThatHasNotPivoted runs attach where only the hook knows the
// root file system.
func TestAttachRefusesAContainerThatHasNotPivoted(t *testing.T) {
	dir, _ := serve(t)
	for _, pids := range []string{"own", "host's"} {
		for _, runtime := range ociRuntimes {
			t.Run(runtime+", "+pids+" pid namespace", func(t *testing.T) {
				script := `pid=$(sed 's/.*"pid": *\([0-9]*\).*/\1/'); "$0" attach --mount "$1" --pid $pid >&2; echo status $? >&2`
				at := hookedBundle(t, runtime, "createRuntime", "sh", "-c", script, vprocfsPath(t), dir)
				b := readConfig(t, at)
				if pids != "own" {
					b.Linux.Namespaces = slices.DeleteFunc(b.Linux.Namespaces, func(n namespace) bool { return n.Type == "pid" })
				}
				b.Process.Args = []string{"/bin/busybox", "true"}
				writeConfig(t, at, b)
				runBundle(t, runtime, at)
				log := readFile(t, at+"/hook.log")
				if strings.Count(log, "\n") != 2 || !strings.Contains(log, "has not entered the root file system of its container yet") || !strings.HasSuffix(log, "status 1\n") {
					t.Errorf("attach says %q", log)
				}
			})
		}
	}
}

// hooksFile returns the project's file for hooks.d, for a binary and a daemon at dir.
func hooksFile(t *testing.T, binary, dir string) string {
	t.Helper()
	return hookFor(readFile(t, "../deploy/hooks.d/vprocfs.json"), binary, dir)
}

// hookFor returns text with the command line of the hook for a binary and a daemon at dir.
func hookFor(text, binary, dir string) string {
	text = strings.ReplaceAll(text, "exec /usr/bin/vprocfs hook", "exec "+binary+" hook --mount "+dir)
	return strings.ReplaceAll(text, "/usr/bin/vprocfs", binary)
}

func TestPodmansHooksDirectory(t *testing.T) {
	dir, _ := serve(t)
	hooks := t.TempDir()
	if err := os.WriteFile(hooks+"/vprocfs.json", []byte(hooksFile(t, vprocfsPath(t), dir)), 0o644); err != nil {
		t.Fatal(err)
	}
	podmanShows(t, []string{"--hooks-dir", hooks}, nil)
}

// cdiSpec returns the CDI specification of the project, for a binary and a daemon at dir.
func cdiSpec(t *testing.T, binary, dir string) string {
	t.Helper()
	text := hookFor(readFile(t, "../deploy/cdi/vprocfs.json"), binary, dir)
	return strings.ReplaceAll(text, "/var/lib/vprocfs/", dir+"/")
}

// installCDI installs it until the test ends.
func installCDI(t *testing.T, binary, dir string) {
	t.Helper()
	const specs = "/run/cdi" // podman 4.3 has no flag for it
	if err := os.MkdirAll(specs, 0o755); err != nil {
		t.Fatal(err)
	}
	file := fmt.Sprintf("%s/vprocfs-test-%d.json", specs, os.Getpid())
	if err := os.WriteFile(file, []byte(cdiSpec(t, binary, dir)), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.Remove(file)
		os.Remove(specs) // if it is empty
	})
}

func TestPodmansCDIDevices(t *testing.T) {
	dir, _ := serve(t)
	installCDI(t, vprocfsPath(t), dir)
	for _, device := range []string{"all", "mounts"} {
		t.Run(device, func(t *testing.T) { podmanShows(t, nil, []string{"--device", "vprocfs.io/view=" + device}) })
	}
}

// TestCDISpecIsValid reads it with the types of the specification. It also keeps the
// device of mounts complete: it has every file that runc lets be mounted.
func TestCDISpecIsValid(t *testing.T) {
	dir, _ := serve(t)
	dec := json.NewDecoder(strings.NewReader(cdiSpec(t, vprocfsPath(t), dir)))
	dec.DisallowUnknownFields()
	var spec cdi.Spec
	if err := dec.Decode(&spec); err != nil {
		t.Fatal(err)
	}
	var mounted []string
	for _, m := range spec.Devices[1].ContainerEdits.Mounts {
		if m.HostPath != dir+m.ContainerPath {
			t.Errorf("%s over %s", m.HostPath, m.ContainerPath)
		}
		mounted = append(mounted, m.ContainerPath)
	}
	want := []string{"/sys/devices/system/cpu"}
	for _, f := range servedFiles(t, dir) {
		if !slices.Contains(refusedByRunc, f) {
			want = append(want, "/proc/"+f)
		}
	}
	slices.Sort(mounted)
	slices.Sort(want)
	if !slices.Equal(mounted, want) {
		t.Errorf("mounts %v, want %v", mounted, want)
	}
}

// wrapper makes a link to the binary by which it is the wrapper of a runtime.
func wrapper(t *testing.T, runtime string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "vprocfs-"+runtime)
	if err := os.Symlink(vprocfsPath(t), path); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWrapperAttachesBetweenCreateAndStart(t *testing.T) {
	dir, _ := serve(t)
	for _, runtime := range ociRuntimes {
		t.Run(runtime, func(t *testing.T) {
			at := writeBundle(t, "", "vprocfs-wrapper-"+runtime, "")
			root, name := t.TempDir(), fmt.Sprintf("vprocfs-wrapper-%s-%d", runtime, os.Getpid())
			wrapped := func(args ...string) *exec.Cmd {
				cmd := ociCommand(t, runtime, root, args...)
				for i, a := range cmd.Args {
					if a == runtime { // the name itself finds the real one
						cmd.Args = slices.Concat(cmd.Args[:i], []string{vprocfsPath(t), "runtime", "--mount", dir, "--runtime", runtime, "--"}, cmd.Args[i+1:])
						break
					}
				}
				return exec.Command(cmd.Args[0], cmd.Args[1:]...)
			}
			began := boottime(t)
			out, err := os.Create(t.TempDir() + "/out")
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			create := wrapped("create", "--bundle", at, name)
			create.Stdout = out
			if err := create.Run(); err != nil {
				t.Fatal(failure(err))
			}
			defer func() {
				if err := wrapped("delete", "--force", name).Run(); err != nil {
					t.Error(err)
				}
			}()
			if said, err := wrapped("start", name).CombinedOutput(); err != nil || len(said) > 0 {
				t.Fatalf("start: %v, %q", err, said)
			}
			waitFor(t, "the container to end", func() bool {
				said, err := wrapped("state", name).Output()
				return err == nil && strings.Contains(string(said), `"stopped"`)
			})
			checkShown(t, readFile(t, out.Name()), boottime(t)-began)
		})
	}
}

// TestWrapperAddsTheHookForRun is about `run`, in which nobody can come between create
// and start.
func TestWrapperAddsTheHookForRun(t *testing.T) {
	dir, _ := serve(t)
	at := writeBundle(t, "", "vprocfs-wrapper-run", "")
	began := boottime(t)
	name := fmt.Sprintf("vprocfs-wrapper-run-%d", os.Getpid())
	for range 2 { // a second run adds no second hook
		out, err := exec.Command("vprocfs", "runtime", "--mount", dir, "--", "--root", t.TempDir(), "run", "-b", at, name).Output()
		if err != nil {
			t.Fatal(failure(err))
		}
		checkShown(t, string(out), boottime(t)-began)
	}
	if n := len(readConfig(t, at).Hooks["createRuntime"]); n != 1 {
		t.Errorf("%d hooks", n)
	}
}

// TestWrapperPassesEverythingOn compares what the wrapper does with what the real
// runtime does with the same arguments.
func TestWrapperPassesEverythingOn(t *testing.T) {
	for _, runtime := range ociRuntimes {
		need(t, runtime, runtime)
		link := wrapper(t, runtime)
		for _, args := range [][]string{
			{}, {"--version"}, {"features"}, {"--no-such-flag"}, {"no-such-command"}, {"state"}, {"start"}, {"--root", t.TempDir(), "state", "nobody"},
			{"--root", t.TempDir(), "list"}, {"--root", t.TempDir(), "--log", "/dev/null", "kill", "nobody"},
		} {
			run := func(path string) (string, int) {
				cmd := exec.Command(path, args...)
				cmd.Args[0] = runtime // crun prints it
				if path == link {
					cmd.Args[0] = path
				}
				out, _ := cmd.CombinedOutput()
				return strings.ReplaceAll(string(out), link, runtime), cmd.ProcessState.ExitCode()
			}
			real, err := exec.LookPath(runtime)
			if err != nil {
				t.Fatal(err)
			}
			want, wantStatus := run(real)
			got, status := run(link)
			want, got = strings.ReplaceAll(want, real, runtime), strings.ReplaceAll(got, real, runtime)
			// The line about the view, before the runtime's own.
			if strings.HasPrefix(got, "vprocfs: runtime: the container starts with the kernel's files: ") {
				_, got, _ = strings.Cut(got, "\n")
			}
			if withoutTimes(got) != withoutTimes(want) || status != wantStatus {
				t.Errorf("%s %q: status %d, %q; the runtime itself: %d, %q", runtime, args, status, got, wantStatus, want)
			}
		}
	}
}

// withoutTimes takes the times out of log lines.
func withoutTimes(text string) string { return logTime.ReplaceAllString(text, "") }

var logTime = regexp.MustCompile(`(time="?|^|\n)\d{4}-\d{2}-\d{2}T[0-9:.+Z-]*"?`)
