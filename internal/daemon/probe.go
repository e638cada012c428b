package daemon

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ProbeVerb is the hidden verb that runs Probe in a process of its own, which can
// be killed if the daemon does not answer.
const ProbeVerb = "probe"

// viewTimeout is how long CheckView waits for an answer of the daemon.
const viewTimeout = 5 * time.Second

// CheckView returns the absolute path of dir. It returns an error if dir is not
// the mount point of a daemon that answers.
func CheckView(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), viewTimeout)
	defer cancel()
	return abs, probe(ctx, abs)
}

// probe runs Probe in a process of its own: a thread of this process that waits for
// an answer might not be killable.
func probe(ctx context.Context, dir string) error {
	start := time.Now()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", ProbeVerb, dir)
	cmd.Args[0] = "vprocfs"
	done := make(chan error, 1)
	go func() {
		out, err := cmd.CombinedOutput()
		if text := strings.TrimPrefix(strings.TrimSpace(string(out)), "vprocfs: "); err != nil && text != "" {
			err = errors.New(text)
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("read a file of %s: no answer in %s", dir, time.Since(start).Round(time.Second))
	}
}

// Probe reads a file of the view at dir. It waits as long as the daemon does not
// answer.
func Probe(dir string) error {
	file := filepath.Join(dir, "proc/uptime")
	var st unix.Statfs_t
	if err := unix.Statfs(file, &st); err != nil {
		return fmt.Errorf("statfs %s: %w", file, err)
	}
	if st.Type != unix.FUSE_SUPER_MAGIC {
		return fmt.Errorf("%s: not a file of a FUSE mount", file)
	}
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", file, err)
	}
	defer unix.Close(fd)
	var buf [64]byte
	n, err := unix.Read(fd, buf[:])
	if err == nil && n == 0 {
		err = errors.New("empty file")
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	return nil
}
