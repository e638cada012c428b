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
	"syscall"
	"time"
)

// helperArg is the argv[0] by which a helper knows what it is.
const helperArg = "vprocfs-attach-helper"

// patience is how long a helper may take. In a container that does nothing odd,
// and with a daemon that answers, it is milliseconds.
const patience = 10 * time.Second

// job is what one helper does: in one container, or a probe. It goes to the helper's standard
// input as JSON; the results come back on its standard output, one JSON value for
// each, as soon as they are known.
type job struct {
	// Probe is a path to ask the file system of, and nothing else is to be done.
	Probe string `json:",omitempty"`

	PID int
	// NS is the inode of the mount namespace that PID must be in; 0 for any.
	NS      uint64 `json:",omitempty"`
	Dir     string // the mount point of the daemon
	Replace bool   // living mounts of our types too
	DryRun  bool
	// Items are the files, none for all that are served.
	Items []item
}

// item is one file of a job.
type item struct {
	// Path is that of the file below Dir, and below the root of the container.
	Path string
	// Point and Mount are those of the dead mount to replace, which must be the
	// topmost one there. They are set in Heal only, where Point is below the
	// root of the container and Path may be elsewhere (a second procfs).
	Point string `json:",omitempty"`
	Mount int    `json:",omitempty"`
	// Optional says that the file may be missing.
	Optional bool `json:",omitempty"`
}

// answer is one result on its way from the helper.
type answer struct {
	Target string `json:",omitempty"` // "" where the rest is about the whole job
	State  State  `json:",omitempty"`
	Error  string `json:",omitempty"`
}

// errHung says that a helper did not end in time. Some results may be there.
var errHung = fmt.Errorf("no answer in %s: a file system in its tree, or the daemon, hangs", patience)

// run has a helper do the job and returns its results.
func run(ctx context.Context, j job) ([]Result, error) {
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
	// So that a Ctrl-C ends us and not it, between two steps.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	theirs.Close() // so that the helper's end is the end of the file
	if err != nil {
		return nil, fmt.Errorf("start a helper: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		_ = cmd.Process.Kill() // an error says that it has ended
		_ = ours.SetReadDeadline(time.Now())
	})
	results, err := receive(ours)
	if !stop() {
		// Not waited for: where it hangs for good, not even the kill reaches it.
		go func() { _ = cmd.Wait() }()
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return results, errHung
		}
		return results, ctx.Err()
	}
	if wait := cmd.Wait(); err == nil && wait != nil {
		err = fmt.Errorf("the helper failed: %w", wait)
	}
	return results, err
}

// receive reads answers up to the end of the file.
func receive(r io.Reader) ([]Result, error) {
	var results []Result
	for dec := json.NewDecoder(bufio.NewReader(r)); ; {
		var a answer
		switch err := dec.Decode(&a); {
		case err == io.EOF:
			return results, nil
		case err != nil:
			return results, fmt.Errorf("read the helper's answer: %w", err)
		case a.Target == "" && a.State == Gone:
			return results, errGone
		case a.Target == "":
			return results, errors.New(a.Error)
		}
		result := Result{Target: a.Target, State: a.State}
		if a.Error != "" {
			result.Err = errors.New(a.Error)
		}
		results = append(results, result)
	}
}

// RunHelper does the work of a helper and ends the process, if this process was
// started as one. Call it first thing in main.
func RunHelper() {
	if len(os.Args) != 1 || os.Args[0] != helperArg {
		return
	}
	if err := help(os.Stdin, json.NewEncoder(os.Stdout)); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", helperArg, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// help does the job that it reads from in. An error means that nobody could be
// told.
func help(in io.Reader, out *json.Encoder) error {
	var j job
	if err := json.NewDecoder(in).Decode(&j); err != nil {
		return err
	}
	tell := func(r Result) error {
		a := answer{Target: r.Target, State: r.State}
		if r.Err != nil {
			a.Error = r.Err.Error()
		}
		return out.Encode(a)
	}
	err := j.do(tell)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errGone):
		return out.Encode(answer{State: Gone})
	}
	return out.Encode(answer{Error: err.Error()})
}

// probe tells whether the FUSE file system at path answers.
func probe(ctx context.Context, path string) error {
	_, err := run(ctx, job{Probe: path})
	return err
}
