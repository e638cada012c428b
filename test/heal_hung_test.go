// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hungNamespaces starts n processes, each in a mount namespace of its own with
// file systems over /proc that never answer, and prints "ready" when all are
// mounted. It does not end by itself.
func hungNamespaces(n int) error {
	for range n {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), toolEnv+"=hung-mounts")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
	}
	fmt.Println("ready")
	return unix.Pause()
}

// hungMounts mounts a file system of the type that heal looks for over three
// files of /proc, prints a line, and reads every request without answering it. A
// process that waits for such an answer cannot be killed.
func hungMounts() error {
	failed := make(chan error)
	for _, file := range []string{"/proc/uptime", "/proc/meminfo", "/proc/stat"} {
		fuse, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		options := fmt.Sprintf("fd=%d,rootmode=100000,user_id=0,group_id=0", fuse)
		if err := unix.Mount("vprocfs", file, "fuse.vprocfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
			return fmt.Errorf("mount %s: %w", file, err)
		}
		if err := answerInit(fuse); err != nil {
			return err
		}
		go func() {
			for buf := make([]byte, 1<<16); ; {
				if _, err := unix.Read(fuse, buf); err != nil {
					failed <- err
				}
			}
		}()
	}
	fmt.Println("mounted")
	return <-failed
}

// answerInit answers the first request of a FUSE connection (fuse_init_out of
// protocol 7.22, include/uapi/linux/fuse.h).
func answerInit(fuse int) error {
	const opInit = 26
	in := make([]byte, 1<<16)
	if _, err := unix.Read(fuse, in); err != nil {
		return err
	}
	if binary.NativeEndian.Uint32(in[4:]) != opInit {
		return errors.New("the first request is not FUSE_INIT")
	}
	out := binary.NativeEndian.AppendUint32(nil, 16+24)
	out = binary.NativeEndian.AppendUint32(out, 0) // no error
	out = append(out, in[8:16]...)                 // the request's number
	for _, field := range []uint32{7, 22, 0, 0, 0, 4096} {
		out = binary.NativeEndian.AppendUint32(out, field)
	}
	_, err := unix.Write(fuse, out)
	return err
}

// TestNoContainerDelaysTheHealingOfAnother has a container with 24 mount
// namespaces, each of which would hang a helper process. The unit gives heal 20
// seconds.
func TestNoContainerDelaysTheHealingOfAnother(t *testing.T) {
	dir, d := deadMount(t)
	hostile := plainContainer(t, "", "--user", "--map-root-user")
	ready := t.TempDir() + "/ready"
	hostile.sh(t, fmt.Sprintf("%s >%s </dev/null & until grep -q ready %[2]s; do sleep 0.1; done",
		strings.Join(toolCommand(t, "hung", "24"), " "), ready))
	victim := startContainer(t, "--mount", dir, "--memory", "64M", "--cpus", "0.5")
	d.killWholly(t)
	wantDead(t, victim)
	startDaemon(t, dir, nil, "serve", dir).line(t)

	start := time.Now()
	out, err := exec.Command("timeout", "20", "vprocfs", "heal", "--mount", dir).CombinedOutput()
	took := time.Since(start)
	t.Logf("heal took %s: %v, %d lines", took, err, strings.Count(string(out), "\n"))
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 124 {
		t.Errorf("heal takes more than 20 s")
	}
	wantView(t, victim)
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "pid "+strconv.Itoa(victim.init)+":") && strings.Contains(line, "failed") {
			t.Errorf("heal says %s", line)
		}
	}
}
