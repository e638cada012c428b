// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// helperArg is the argv[0] of a helper process.
const helperArg = "vprocfs-attach-helper"

// patience is how long a helper may take by default. If nothing hangs it takes
// some milliseconds.
const patience = 10 * time.Second

// job is the work of one helper: a probe, or files of one container. The helper
// reads it from standard input as JSON and writes each result to standard output
// as soon as it is known.
type job struct {
	// Probe is a file whose FUSE file system is asked for an answer, and Read one that
	// is read. If one is set, the rest is empty.
	Probe, Read string `json:",omitempty"`

	PID int
	// NS is the inode of the mount namespace that PID must be in; 0 for any.
	NS      uint64 `json:",omitempty"`
	Dir     string // the mount point of the daemon
	Replace bool   // replace living mounts of our types too
	IDMap   bool   `json:",omitempty"` // see Options
	Rootfs  string `json:",omitempty"` // see Options
	Remove  bool   `json:",omitempty"` // see HealOptions
	DryRun  bool
	// Items are the files. If there are none, all files that are served count.
	Items []item
}

// item is one file of a job.
type item struct {
	// Path is the path of the file below Dir, and below the root of the container.
	Path string
	// Mount is the id of the dead mount to replace, which must be the topmost one
	// at Point. Only Heal sets them. Point is below the root of the container and
	// may differ from Path (a second procfs).
	Point string `json:",omitempty"`
	Mount int    `json:",omitempty"`
	// Optional says that the file may be missing.
	Optional bool `json:",omitempty"`

	dev uint64 // superblock of Mount; not for the helper
}

// answer is one result as the helper writes it.
type answer struct {
	Target string `json:",omitempty"` // "" if the error concerns the whole job
	State  State  `json:",omitempty"`
	Error  string `json:",omitempty"`
	// Occupied says that Error is errOccupied.
	Occupied bool `json:",omitempty"`
}

// errHung is returned by run if the helper did not end in time.
var errHung = errors.New("a file system in its tree, or the daemon, hangs")

// run has a helper do the job and returns its results, which may be some of all if
// there is an error. A helper that does not end within the time limit is killed. If
// it waits in a system call that no signal interrupts, it stays until the file
// system that it waits for answers or ends; run does not wait for it.
func run(ctx context.Context, j job, limit time.Duration) ([]Result, error) {
	input, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{helperArg}
	cmd.Env = []string{"GOMAXPROCS=1"}
	cmd.Stdin = bytes.NewReader(input)
	cmd.Stdout = theirs
	// A process group of its own: Ctrl-C must not end it between two steps.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	theirs.Close() // the helper has the only other one
	if err != nil {
		return nil, fmt.Errorf("start a helper: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		_ = cmd.Process.Kill() // an error means that it has ended
		_ = ours.SetReadDeadline(time.Now())
	})
	results, err := receive(ours)
	if !stop() {
		go func() { _ = cmd.Wait() }() // may never return
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return results, fmt.Errorf("no answer in %s: %w", limit, errHung)
		}
		return results, ctx.Err()
	}
	if wait := cmd.Wait(); err == nil && wait != nil {
		err = fmt.Errorf("the helper failed: %w", wait)
	}
	return results, err
}

// receive reads answers until the end of file.
func receive(r io.Reader) ([]Result, error) {
	var results []Result
	for dec := json.NewDecoder(bufio.NewReader(r)); ; {
		var a answer
		switch err := dec.Decode(&a); {
		case err == io.EOF:
			return results, nil
		case err != nil:
			return results, fmt.Errorf("read the helper's answer: %w", err)
		case a.Target == "":
			return results, a.err()
		}
		results = append(results, a.result())
	}
}

// RunHelper does the work of a helper and ends the process, if this process was
// started as one. Call it first in main.
func RunHelper() {
	if len(os.Args) != 1 {
		return
	}
	var err error
	switch os.Args[0] {
	case helperArg:
		err = help(os.Stdin, json.NewEncoder(os.Stdout))
	case residentArg:
		err = serve(unix.Stdin)
	default:
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[0], err)
		os.Exit(1)
	}
	os.Exit(0)
}

// help reads a job from in and does it. It returns an error if the results could
// not be written.
func help(in io.Reader, out *json.Encoder) error {
	runtime.LockOSThread() // the job moves it to another mount namespace
	if err := hide(); err != nil {
		return err
	}
	var j job
	if err := json.NewDecoder(in).Decode(&j); err != nil {
		return err
	}
	err := j.do(new(host), func(r Result) error { return out.Encode(newAnswer(r)) })
	if err == nil {
		return nil
	}
	return out.Encode(endAnswer(err))
}

// hide keeps others from reading the memory of this process. If a container shares the
// host's pid namespace, its root could otherwise.
func hide() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl PR_SET_DUMPABLE: %w", err)
	}
	return nil
}

// newAnswer returns the answer that stands for a result.
func newAnswer(r Result) answer {
	a := answer{Target: r.Target, State: r.State}
	if r.Err != nil {
		a.Error, a.Occupied = r.Err.Error(), errors.Is(r.Err, errOccupied)
	}
	return a
}

// endAnswer returns the answer that stands for the error of a whole job, or for none.
func endAnswer(err error) answer {
	switch {
	case err == nil:
		return answer{}
	case errors.Is(err, errGone):
		return answer{State: Gone}
	}
	return answer{Error: err.Error()}
}

// occupiedError is an errOccupied that a helper has found.
type occupiedError struct{ text string }

func (e *occupiedError) Error() string { return e.text }
func (e *occupiedError) Unwrap() error { return errOccupied }

// result returns the result that a stands for.
func (a *answer) result() Result {
	r := Result{Target: a.Target, State: a.State}
	switch {
	case a.Occupied:
		r.Err = &occupiedError{a.Error}
	case a.Error != "":
		r.Err = errors.New(a.Error)
	}
	return r
}

// err returns the error of a whole job that a stands for, or nil.
func (a *answer) err() error {
	switch {
	case a.State == Gone:
		return errGone
	case a.Error == ErrNotPivoted.Error():
		return ErrNotPivoted
	case a.Error != "":
		return errors.New(a.Error)
	}
	return nil
}

// probe returns an error if the FUSE file system at path does not answer.
func probe(ctx context.Context, path string, limit time.Duration) error {
	_, err := run(ctx, job{Probe: path}, limit)
	return err
}

// Read reads a file of the view at dir, as a container does. It returns an error if that
// fails or takes longer than limit.
func Read(dir string, limit time.Duration) error {
	_, err := run(context.Background(), job{Read: filepath.Join(dir, "proc/uptime")}, limit)
	return err
}
