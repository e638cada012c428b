package daemon

import (
	"errors"
	"fmt"
	"path/filepath"
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
	checked := make(chan error, 1)
	go func() { checked <- Probe(abs) }()
	select {
	case err := <-checked:
		return abs, err
	case <-time.After(viewTimeout):
		return "", fmt.Errorf("read %s: no answer from the daemon in %s", probed(abs), viewTimeout)
	}
}

// probed is the file that Probe reads.
func probed(dir string) string { return filepath.Join(dir, "proc/uptime") }

// Probe reads a file of the view at dir. It waits as long as the daemon does not
// answer.
func Probe(dir string) error {
	file := probed(dir)
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
