// SPDX-License-Identifier: Apache-2.0

//go:build runtimes

package test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cri is a containerd of its own, with everything below one directory, and its client.
type cri struct {
	dir, parent string
	cmd         *exec.Cmd
	pods        int
}

const busyboxImage = "localhost/busybox:1"

// startCRI starts containerd with the CRI and NRI.
func startCRI(t *testing.T) *cri {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "vpc") // paths of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := &cri{dir: dir, parent: fmt.Sprintf("/vprocfs-test-cri-%d", os.Getpid())}
	config := strings.NewReplacer("DIR", dir, "RUNC", newestRuntime(t, "runc"), "IMAGE", busyboxImage).Replace(`version = 3
root = "DIR/root"
state = "DIR/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs"]
[plugins.'io.containerd.server.v1.grpc']
address = "DIR/c.sock"
[plugins.'io.containerd.server.v1.ttrpc']
address = "DIR/t.sock"
[plugins.'io.containerd.internal.v1.opt']
path = "DIR/opt"
[plugins.'io.containerd.cri.v1.images']
snapshotter = "native"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "IMAGE"
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
disable_apparmor = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
snapshotter = "native"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = "RUNC"
Root = "DIR/runc"
[plugins.'io.containerd.nri.v1.nri']
socket_path = "DIR/nri.sock"
plugin_path = "DIR/nri"
plugin_config_path = "DIR/nri.d"
`)
	if err := os.WriteFile(dir+"/config.toml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for line := range strings.Lines(readFile(t, "/proc/mounts")) {
			if f := strings.Fields(line); f[2] == "cgroup" || f[2] == "cgroup2" {
				removeGroup(t, f[1]+c.parent)
			}
		}
	})
	t.Cleanup(c.stop)
	c.start(t)
	t.Cleanup(func() { c.run(t, "crictl", "rmp", "--all", "--force") })
	image := filepath.Join(dir, "image.tar")
	if err := os.WriteFile(image, busyboxArchive(t), 0o600); err != nil {
		t.Fatal(err)
	}
	c.run(t, "ctr", "--namespace", "k8s.io", "images", "import", image)
	return c
}

// start starts the daemon and waits until it answers.
func (c *cri) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(c.dir+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c.cmd = exec.Command(newestRuntime(t, "containerd"), "--config", c.dir+"/config.toml")
	c.cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(newestRuntime(t, "containerd-shim-runc-v2"))+":"+os.Getenv("PATH"))
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "containerd to answer", func() bool { return c.command(t, "crictl", "version").Run() == nil })
}

// stop ends the daemon; its containers live on.
func (c *cri) stop() {
	_ = c.cmd.Process.Signal(unix.SIGTERM) // Wait says that it has ended
	_ = c.cmd.Wait()
}

// command is a command line of crictl or ctr.
func (c *cri) command(t *testing.T, client string, args ...string) *exec.Cmd {
	flags := []string{"--address", c.dir + "/c.sock"}
	if client == "crictl" {
		endpoint := "unix://" + c.dir + "/c.sock"
		flags = []string{"--config", "/dev/null", "--runtime-endpoint", endpoint, "--image-endpoint", endpoint, "--timeout", "60s"}
	}
	return exec.Command(newestRuntime(t, client), append(flags, args...)...)
}

// run runs a command of a client and returns what it prints.
func (c *cri) run(t *testing.T, client string, args ...string) string {
	t.Helper()
	out, err := c.command(t, client, args...).Output()
	if err != nil {
		t.Errorf("%s %q: %v\n%s", client, args, failure(err), lastLines(readFile(t, c.dir+"/log"), 5))
	}
	return strings.TrimSpace(string(out))
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(len(lines)-n, 0):], "\n")
}

// criContainer is a container of 64 MiB and half a CPU. The first thing that it does is to
// read /proc/meminfo and the CPUs that are online.
type criContainer struct {
	*cri
	id, log string
	took    time.Duration // of `crictl start`
}

func (c *cri) container(t *testing.T, annotations map[string]string) criContainer {
	t.Helper()
	c.pods++
	logs := fmt.Sprintf("%s/logs%d", c.dir, c.pods)
	write := func(name string, v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		path := fmt.Sprintf("%s/%s%d.json", c.dir, name, c.pods)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	type object = map[string]any
	pod := write("pod", object{
		"metadata":      object{"name": fmt.Sprintf("pod%d", c.pods), "namespace": "test", "uid": fmt.Sprint(c.pods), "attempt": 0},
		"log_directory": logs, "annotations": annotations,
		// The network of the node needs no CNI.
		"linux": object{"cgroup_parent": c.parent, "security_context": object{"namespace_options": object{"network": 2}}},
	})
	container := write("container", object{
		"metadata": object{"name": "web"}, "image": object{"image": busyboxImage}, "log_path": "web.log",
		"command": []string{"/bin/busybox", "sh", "-c", "busybox cat /proc/meminfo " + cpuDir + "/online; echo end; exec busybox sleep 100000"},
		"linux": object{
			"resources":        object{"memory_limit_in_bytes": 64 << 20, "cpu_quota": 50_000, "cpu_period": 100_000},
			"security_context": object{"namespace_options": object{"network": 2, "pid": 1}},
		},
	})
	sandbox := c.run(t, "crictl", "runp", pod)
	id := c.run(t, "crictl", "create", sandbox, container, pod)
	began := time.Now()
	c.run(t, "crictl", "start", id)
	return criContainer{c, id, logs + "/web.log", time.Since(began)}
}

// first returns what the container has read at first.
func (c criContainer) first(t *testing.T) (memTotal uint64, cpus []int) {
	t.Helper()
	var text string
	waitFor(t, "the container's first output", func() bool {
		raw, _ := os.ReadFile(c.log)
		text = ""
		for line := range strings.Lines(string(raw)) { // TIME STREAM F TEXT
			_, line, _ = strings.Cut(line, " F ")
			text += line
		}
		return strings.HasSuffix(text, "end\n")
	})
	text = strings.TrimSuffix(text, "\nend\n")
	end := strings.LastIndexByte(text, '\n') + 1
	return meminfo(t, text[:end])["MemTotal"], cpuList(t, text[end:])
}

// now returns MemTotal as the container sees it now, in kB.
func (c criContainer) now(t *testing.T) uint64 {
	t.Helper()
	return meminfo(t, c.run(t, "crictl", "exec", c.id, "/bin/busybox", "cat", "/proc/meminfo"))["MemTotal"]
}

// busyboxArchive is an image for `docker load` that holds busybox and sleeps.
func busyboxArchive(t *testing.T) []byte {
	t.Helper()
	type file struct {
		name string
		text []byte
	}
	archive := func(files ...file) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, f := range files {
			if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o755, Size: int64(len(f.text)), Typeflag: tar.TypeReg}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(f.text); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	layer := archive(file{"bin/busybox", []byte(readFile(t, filepath.Join(busyboxRoot(t), "bin/busybox")))})
	sum := sha256.Sum256(layer)
	config := fmt.Sprintf(`{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"],"Entrypoint":["/bin/busybox","sleep","100000"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}`, hex.EncodeToString(sum[:]))
	return archive(
		file{"manifest.json", fmt.Appendf(nil, `[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]`, busyboxImage)},
		file{"config.json", []byte(config)}, file{"layer.tar", layer},
	)
}

// nriPlugin is a running vprocfs-nri.
type nriPlugin struct {
	cmd *exec.Cmd
	log string // path
}

func (c *cri) plugin(t *testing.T, dir string) *nriPlugin {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(newestRuntime(t, "vprocfs-nri"), "--mount", dir, "--socket", c.dir+"/nri.sock")
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &nriPlugin{cmd, log.Name()}
	t.Cleanup(p.stop)
	p.waitConnected(t, 1)
	return p
}

func (p *nriPlugin) waitConnected(t *testing.T, times int) {
	t.Helper()
	waitFor(t, "the plugin to be connected", func() bool { return strings.Count(readFile(t, p.log), "connected to the runtime") >= times })
}

func (p *nriPlugin) stop() {
	_ = p.cmd.Process.Signal(unix.SIGCONT)
	_ = p.cmd.Process.Signal(unix.SIGTERM)
	_ = p.cmd.Wait()
}

const kib64M = 64 << 10 // in kB, as meminfo has it

// TestRuntimesNRI runs the plugin with containerd.
func TestRuntimesNRI(t *testing.T) {
	dir, worker := serve(t)
	c := startCRI(t)
	hostMemory := meminfo(t, readFile(t, "/proc/meminfo"))["MemTotal"]
	hostCPUs := cpuList(t, readFile(t, cpuDir+"/online"))

	early := c.container(t, nil)
	if m, _ := early.first(t); m != hostMemory {
		t.Errorf("without the plugin MemTotal is %d kB, want the host's %d", m, hostMemory)
	}
	p := c.plugin(t, dir)
	t.Run("what runs is attached when the plugin connects", func(t *testing.T) {
		waitFor(t, "the running container to be attached", func() bool { return early.now(t) == kib64M })
	})
	for _, tt := range []struct {
		name        string
		annotations map[string]string
		memory      uint64
		cpus        int
		log         string
	}{
		{"no annotation", nil, kib64M, 1, ""},
		{"off", map[string]string{"vprocfs.io/view": "off"}, hostMemory, len(hostCPUs), ""},
		{"policy", map[string]string{"vprocfs.io/cpu": "cpuset"}, kib64M, len(hostCPUs), ""},
		{"policy of one container", map[string]string{"vprocfs.io/cpu.web": "cpuset", "vprocfs.io/cpu": "quota"}, kib64M, len(hostCPUs), ""},
		{"a policy that is none", map[string]string{"vprocfs.io/cpu": "many"}, kib64M, 1, `invalid value \"many\" of cpu: must be quota, cpuset, request`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := len(readFile(t, p.log))
			m, cpus := c.container(t, tt.annotations).first(t)
			if m != tt.memory || len(cpus) != tt.cpus {
				t.Errorf("the first read shows %d kB and the CPUs %v, want %d and %d CPUs", m, cpus, tt.memory, tt.cpus)
			}
			if said := readFile(t, p.log)[before:]; !strings.Contains(said, tt.log) || tt.log == "" && said != "" {
				t.Errorf("the plugin says %q, want %q", said, tt.log)
			}
		})
	}
	t.Run("a restart of containerd", func(t *testing.T) {
		c.stop()
		c.start(t)
		p.waitConnected(t, 2)
		if m, _ := c.container(t, nil).first(t); m != kib64M {
			t.Errorf("MemTotal %d kB", m)
		}
	})
	t.Run("a plugin that answers too late", func(t *testing.T) {
		_ = p.cmd.Process.Signal(unix.SIGSTOP)
		late := c.container(t, nil)
		if m, _ := late.first(t); m != hostMemory {
			t.Errorf("MemTotal %d kB, want the host's", m)
		}
		t.Logf("the start took %s", late.took)
		_ = p.cmd.Process.Signal(unix.SIGCONT)
		waitFor(t, "the container that was missed to be attached", func() bool { return late.now(t) == kib64M })
		if m, _ := c.container(t, nil).first(t); m != kib64M {
			t.Errorf("of the next container MemTotal is %d kB", m)
		}
	})
	t.Run("a daemon that hangs", func(t *testing.T) {
		unix.Kill(worker, unix.SIGSTOP)
		t.Cleanup(func() { unix.Kill(worker, unix.SIGCONT) })
		started := c.container(t, nil)
		if m, _ := started.first(t); m != hostMemory {
			t.Errorf("MemTotal %d kB, want the host's", m)
		}
		t.Logf("the start took %s", started.took)
		if said := readFile(t, p.log); !strings.Contains(lastLines(said, 1), "container starts with the kernel's files") {
			t.Errorf("the plugin says %q", said)
		}
	})
	if slices.Contains(os.Args, "-test.v") {
		t.Log(readFile(t, p.log))
	}
}
