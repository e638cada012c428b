// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"vprocfs/internal/fdconn"
	"vprocfs/internal/seccomp"
)

// InitVerb is the hidden verb of vprocfs that runs Init.
const InitVerb = "container-init"

// ErrNotInit is returned by Init if Run did not start this process.
var ErrNotInit = errors.New("only `vprocfs run` can start this")

// sysDirs are paths of the host's /sys, and of the view.
var sysDirs = [...]string{"/sys/devices/system/cpu", "/sys/devices/system/node"}

// Descriptors of the init of a container (exec.Cmd.ExtraFiles).
const (
	controlFD = 3
	viewFD    = 4 // if Options.Dir is empty: the root of the view
)

// Init is the init (pid 1) of a container. It mounts the container's /proc with the
// view over it, runs args, and does the work of an init until they end: it reaps
// orphans and forwards signals. It returns the exit status of args as an error, unless
// it is 0. The process must end then, so that the kernel ends all others in the
// namespace.
//
// If there are calls, args runs under a seccomp filter that asks Run about them.
func Init(dir string, calls []seccomp.Call, args []string) error {
	if os.Getpid() != 1 || len(args) == 0 {
		return ErrNotInit
	}
	runtime.GOMAXPROCS(1) // saves memory, which counts as the container's
	control, err := fdconn.New(os.NewFile(controlFD, "control"))
	if err != nil {
		return err
	}
	if _, _, err := control.Receive(); err != nil {
		return &ExitError{Status: 1} // Run has ended and has printed the reason
	}
	// The name that ps shows. It is "exe", from /proc/self/exe.
	if err := os.WriteFile("/proc/self/comm", []byte("vprocfs"), 0); err != nil {
		return err
	}
	if err := mountContainerProc(dir); err != nil {
		return err
	}
	if len(calls) > 0 {
		if err := installFilter(control, calls); err != nil {
			return err
		}
	}
	children := make(chan os.Signal, 1) // one is enough: reap waits for all
	signal.Notify(children, unix.SIGCHLD)
	signals := notify(forwarded[:]...)
	child, err := startCommand(args)
	if err != nil {
		return err
	}
	orders := make(chan syscall.Signal)
	go readOrders(control, orders)
	for {
		select {
		case <-children:
			ended, stopped, status := reap(child)
			if ended {
				return status
			}
			if stopped {
				_ = control.Send(controlStopped, -1) // an error means that Run has ended
			}
		case s := <-signals:
			// SIGINT and SIGQUIT come from the terminal: the command has them too.
			if s != unix.SIGINT && s != unix.SIGQUIT {
				_ = unix.Kill(child, s.(syscall.Signal)) // not reaped yet, so the pid is its own
			}
		case s, ok := <-orders:
			if !ok {
				return &ExitError{Status: 1} // Run has ended
			}
			_ = unix.Kill(child, s)
		}
	}
}

// installFilter gives this process, and so the command, a filter, and Run its listener.
func installFilter(control *fdconn.Conn, calls []seccomp.Call) error {
	fd, err := seccomp.Install(calls)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return control.Send(controlListener, fd)
}

// readOrders sends the signals that Run forwards to orders, until Run ends.
func readOrders(control *fdconn.Conn, orders chan<- syscall.Signal) {
	defer close(orders)
	for {
		text, _, err := control.Receive()
		if err != nil {
			return
		}
		if n, err := strconv.Atoi(text); err == nil {
			orders <- syscall.Signal(n)
		}
	}
}

// startCommand starts args with the standard streams, the environment and the process
// group of this process.
func startCommand(args []string) (pid int, err error) {
	path, err := exec.LookPath(args[0])
	switch {
	case errors.Is(err, exec.ErrDot):
		// PATH has the current directory: that is what the user wants.
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, iofs.ErrNotExist):
		return 0, &ExitError{127, fmt.Errorf("%s: command not found", args[0])}
	case err != nil:
		return 0, &ExitError{126, err}
	}
	pid, err = syscall.ForkExec(path, args, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		return 0, &ExitError{126, fmt.Errorf("exec %s: %w", path, err)}
	}
	return pid, nil
}

// reap waits for every child that has ended. It reports whether child has ended or has
// been stopped. status is the exit status of child as an error, unless it is 0.
func reap(child int) (ended, stopped bool, status error) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG|unix.WUNTRACED, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid == 0 {
			return ended, stopped, status
		}
		if pid != child {
			continue
		}
		if stopped = ws.Stopped(); stopped {
			continue
		}
		ended = true
		switch {
		case ws.Signaled():
			status = &ExitError{Status: 128 + int(ws.Signal())}
		case ws.ExitStatus() != 0:
			status = &ExitError{Status: ws.ExitStatus()}
		}
	}
}

// mountContainerProc mounts a /proc of this pid namespace, each entry of the view's
// proc over the one of the same name, and the view's directories of sysfs over the host's.
func mountContainerProc(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make all mounts private: %w", err)
	}
	view := dir
	if dir == "" {
		// open_tree(2) needs a mount that is attached. /proc is a directory that
		// always exists.
		view = "/proc"
		if err := unix.MoveMount(viewFD, "", unix.AT_FDCWD, view, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("move_mount the view to %s: %w", view, err)
		}
	}
	files, err := cloneFiles(filepath.Join(view, "proc"))
	if err != nil {
		return err
	}
	for _, path := range sysDirs {
		fd, err := openTree(filepath.Join(view, path))
		if errors.Is(err, unix.ENOENT) { // a daemon may not serve it
			continue
		}
		if err != nil {
			return err
		}
		files[path] = fd
	}
	if dir == "" {
		if err := unix.Unmount(view, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount the view from %s: %w", view, err)
		}
		if err := unix.Close(viewFD); err != nil {
			return fmt.Errorf("close the view: %w", err)
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for path, fd := range files {
		if err := bindFile(fd, path); err != nil {
			return err
		}
	}
	return nil
}

// cloneFiles returns a detached mount of each entry of dir, by its path below /proc.
func cloneFiles(dir string) (map[string]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := make(map[string]int)
	for _, e := range entries {
		fd, err := openTree(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		files[filepath.Join("/proc", e.Name())] = fd
	}
	return files, nil
}

// openTree returns a detached mount of what is at path.
func openTree(path string) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return -1, fmt.Errorf("open_tree %s: %w", path, err)
	}
	return fd, nil
}

// bindFile attaches detached mount fd at path, if the kernel has such a file or
// directory, and closes fd.
func bindFile(fd int, path string) error {
	err := unix.MoveMount(fd, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("move_mount over %s: %w", path, err)
	}
	return unix.Close(fd)
}
