// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWrapperSaysOnceThatARuntimeHasNoTimeNamespaces runs containers with runc 1.1 or
// what looks like it.
func TestWrapperSaysOnceThatARuntimeHasNoTimeNamespaces(t *testing.T) {
	need(t, "runc", "runc")
	dir, _ := serve(t)
	old := filepath.Join(t.TempDir(), "runc")
	if err := os.WriteFile(old, []byte("#!/bin/sh\n[ \"$1\" != features ] || { echo '{}'; exit; }\nexec runc \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove("/run/vprocfs-timens") })
	at := writeBundle(t, "", "vprocfs-wrapper-timens", "")
	for _, want := range []string{"vprocfs: runtime: the container starts with the clocks of the host: " + old + " has no time namespaces (runc 1.2 and crun 1.21 have them)\n", ""} {
		began := boottime(t)
		cmd := exec.Command("vprocfs", "runtime", "--mount", dir, "--timens", "--runtime", old, "--", "--root", t.TempDir(), "run", "-b", at, fmt.Sprintf("vprocfs-wrapper-timens-%d", os.Getpid()))
		var said strings.Builder
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil || said.String() != want {
			t.Fatalf("%v, %q, want %q", err, said.String(), want)
		}
		checkShown(t, string(out), boottime(t)-began)
	}
}

// surroundings prints all that a program has from the one that started it.
const surroundings = `#!/bin/sh
printf '%s\n' "$0" "$@"
env | sort
pwd; umask; ulimit -aS; ulimit -aH
grep -E '^(Sig(Ign|Blk)|Cap|NoNewPrivs|Seccomp|Groups|PPid):' /proc/$$/status
for f in /proc/$$/fd/*; do echo "${f##*/} $(readlink $f)"; done
cat
exit 42
`

// TestWrapperGivesTheRuntimeAllThatItGot starts a runtime that prints what it has got, with
// the wrapper and without.
func TestWrapperGivesTheRuntimeAllThatItGot(t *testing.T) {
	real := filepath.Join(t.TempDir(), "surroundings")
	if err := os.WriteFile(real, []byte(surroundings), 0o755); err != nil {
		t.Fatal(err)
	}
	extra, err := os.Open("/dev/zero") // as of podman's --preserve-fds
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	cwd := t.TempDir()
	t.Cleanup(func() { os.Remove("/run/vprocfs-timens") })
	run := func(command ...string) string {
		launch := `umask 027; ulimit -Sn 300; trap "" HUP INT; exec "$@"`
		cmd := exec.Command("sh", append([]string{"-c", launch, "sh"}, command...)...)
		cmd.Dir, cmd.Env, cmd.Stdin, cmd.ExtraFiles = cwd, append(os.Environ(), "NOTIFY_SOCKET=/run/n", "_LISTEN_FDS=1"), strings.NewReader("from stdin\n"), []*os.File{extra}
		out, err := cmd.Output()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 42 {
			t.Errorf("%q: %v", command, err)
		}
		return pipeNumber.ReplaceAllString(string(out), "pipe")
	}
	for _, line := range []string{
		"", "--root /r checkpoint --image-path /i --leave-running c1", "restore --bundle /b --image-path /i -d c1", "--systemd-cgroup create --bundle /b --console-socket /s --pid-file /p c1",
		"exec --tty --cwd / --env A=B --process /p.json c1", "kill --all c1 9", "update --resources - c1", "events c1", "delete --force c1", "run -b /none c1", "start c1", "features", "spec",
	} {
		args := strings.Fields(line)
		want := run(append([]string{real}, args...)...)
		got := run(slices.Concat([]string{vprocfsPath(t), "runtime", "--mount", cwd, "--timens", "--runtime", real, "--"}, args)...)
		if got != want || !strings.HasSuffix(want, "from stdin\n") {
			t.Errorf("%q: the runtime gets\n%s\nwithout the wrapper\n%s", line, got, want)
		}
	}
}

// pipeNumber is what differs between two pipes in the listing of files.
var pipeNumber = regexp.MustCompile(`pipe:\[[0-9]+\]|PPid:.*`)

// wrapped is a command line of the wrapper around a runtime that has its state at root.
func wrapped(t *testing.T, runtime, dir, root string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := ociCommand(t, runtime, root, args...)
	i := slices.Index(cmd.Args, runtime)
	args = slices.Concat(cmd.Args[:i], []string{vprocfsPath(t), "runtime", "--mount", dir, "--runtime", runtime, "--"}, cmd.Args[i+1:])
	return exec.Command(args[0], args[1:]...)
}

func TestWrapperPassesSignalsAndStatuses(t *testing.T) {
	dir, _ := serve(t)
	for _, runtime := range ociRuntimes {
		t.Run(runtime, func(t *testing.T) {
			root, name := t.TempDir(), fmt.Sprintf("vprocfs-signal-%s-%d", runtime, os.Getpid())
			at := writeBundle(t, "", name, "")
			b := readConfig(t, at)
			b.Process.Args = []string{"/bin/busybox", "sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do busybox sleep 0.1; done"}
			writeConfig(t, at, b)
			cmd := wrapped(t, runtime, dir, root, "run", "--bundle", at, name)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = wrapped(t, runtime, dir, root, "delete", "--force", name).Run() })
			ready := make([]byte, len("ready\n"))
			if _, err := io.ReadFull(out, ready); err != nil {
				t.Fatal(err)
			}
			inside := wrapped(t, runtime, dir, root, "exec", name, "/bin/busybox", "sh", "-c", "busybox cat /proc/meminfo; busybox cat; exit 3")
			inside.Stdin = strings.NewReader("from stdin\n")
			text, err := inside.Output()
			files, passed := strings.CutSuffix(string(text), "from stdin\n")
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 3 || !passed || memTotal(t, files) != 64 {
				t.Errorf("exec: %v, %q", err, text)
			}
			if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 7 {
				t.Errorf("run: %v, want status 7, which the container returns for SIGTERM", err)
			}
		})
	}
}

func TestWrapperPassesTheConsole(t *testing.T) {
	dir, _ := serve(t)
	for _, runtime := range ociRuntimes {
		t.Run(runtime, func(t *testing.T) {
			root, name := t.TempDir(), fmt.Sprintf("vprocfs-console-%s-%d", runtime, os.Getpid())
			at := writeBundle(t, "", name, "")
			b := readConfig(t, at)
			b.Process.Terminal = true
			b.Process.Args = []string{"/bin/busybox", "sh", "-c", "busybox tty -s && echo a terminal; read line; echo got $line; busybox head -1 /proc/meminfo"}
			b.Mounts = append(b.Mounts, bindMount{"/dev", "tmpfs", "tmpfs", nil}, bindMount{"/dev/pts", "devpts", "devpts", []string{"newinstance", "ptmxmode=0666", "mode=0620"}})
			writeConfig(t, at, b)
			sockets, err := os.MkdirTemp("/run", "vp") // paths of sockets are short
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(sockets) })
			socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: sockets + "/c", Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			defer socket.Close()
			var said bytes.Buffer
			create := wrapped(t, runtime, dir, root, "create", "--console-socket", sockets+"/c", "--bundle", at, name)
			create.Stderr = &said
			if err := create.Run(); err != nil {
				t.Fatalf("%v: %s", err, &said)
			}
			t.Cleanup(func() { _ = wrapped(t, runtime, dir, root, "delete", "--force", name).Run() })
			console := receiveFile(t, socket)
			defer console.Close()
			if out, err := wrapped(t, runtime, dir, root, "start", name).CombinedOutput(); err != nil || len(out) > 0 {
				t.Fatalf("start: %v, %s", err, out)
			}
			if _, err := console.WriteString("a line\n"); err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(console) // EIO once the container has ended
			for _, want := range []string{"a terminal\r\n", "got a line\r\n", "65536 kB\r\n"} {
				if !strings.Contains(string(text), want) {
					t.Errorf("the console says %q, want %q", text, want)
				}
			}
		})
	}
}

// receiveFile returns the file that the first connection to a socket sends.
func receiveFile(t *testing.T, socket *net.UnixListener) *os.File {
	t.Helper()
	conn, err := socket.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 4096), control)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%v, %d messages", err, len(messages))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%v, %d files", err, len(fds))
	}
	return os.NewFile(uintptr(fds[0]), "console")
}

// TestWrapperHasTheDaemonAnswerSystemCalls, of the container and of what is executed in it
// later, with and without a policy of its own.
func TestWrapperHasTheDaemonAnswerSystemCalls(t *testing.T) {
	dir, _ := serve(t, "--syscalls")
	const policy = `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["swapon"],"action":"SCMP_ACT_ERRNO"}]}`
	for _, runtime := range ociRuntimes {
		for _, seccomp := range []string{"", policy} {
			t.Run(runtime+" "+seccomp[:min(len(seccomp), 1)], func(t *testing.T) {
				root, name := t.TempDir(), fmt.Sprintf("vprocfs-calls-%s-%d", runtime, os.Getpid())
				at := writeBundle(t, "", name, "")
				b := readConfig(t, at)
				const ask = "nproc; free -k"
				b.Process.Args = []string{"/bin/busybox", "sh", "-c", ask + "; echo -; exec sleep 1000"}
				writeConfig(t, at, b)
				config := readFile(t, at+"/config.json")
				if seccomp != "" {
					config = strings.Replace(config, `"linux":{`, `"linux":{"seccomp":`+seccomp+`,`, 1)
				}
				if err := os.WriteFile(at+"/config.json", []byte(config), 0o644); err != nil {
					t.Fatal(err)
				}
				cmd := wrapped(t, runtime, dir, root, "run", "-b", at, name)
				cmd.Stderr = os.Stderr
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if text, err := ociCommand(t, runtime, root, "kill", name, "KILL").CombinedOutput(); err != nil {
						t.Errorf("kill: %v: %s", err, text)
					}
					_ = cmd.Wait() // it says that it was killed, and has deleted the container
				})
				check := func(text string) {
					t.Helper()
					f := strings.Fields(text)
					if len(f) < 9 || f[0] != "1" || f[7] != "Mem:" || f[8] != "65536" {
						t.Errorf("nproc and free:\n%s", text)
					}
				}
				text := ""
				lines := bufio.NewReader(out)
				for !strings.HasSuffix(text, "-\n") {
					line, err := lines.ReadString('\n')
					if err != nil {
						t.Fatal(err, text)
					}
					text += line
				}
				check(text)
				said, err := wrapped(t, runtime, dir, root, "exec", name, "/bin/busybox", "sh", "-c", ask).Output()
				if err != nil {
					t.Fatal("exec: ", err)
				}
				check(string(said))
			})
		}
	}
}
