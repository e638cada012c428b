// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// container is an agent in a pid namespace and control groups of its own. It
// shares all else with the host, so that it can read the files of every peer.
type container struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// container starts one at depth levels below the run's own groups.
func (b *bench) container(name string, depth int) (*container, error) {
	return b.containerWith(agentCommand(), name, depth)
}

// containerWith is container with another agent.
func (b *bench) containerWith(agent *exec.Cmd, name string, depth int) (*container, error) {
	dirs, err := b.groups.add(name, depth)
	if err != nil {
		return nil, err
	}
	c, err := startAgent(agent, dirs)
	if err == nil {
		b.agents.Store(c, nil)
	}
	return c, err
}

// agentCommand is what obeys all commands of agent.
func agentCommand() *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"=agent", "GOMAXPROCS=1")
	return cmd
}

//go:embed reader/reader.c
var readerSource []byte

// buildReader compiles the agent of a container of which there are many.
func (b *bench) buildReader() (path string, err error) {
	path = filepath.Join(b.dir, "reader")
	cmd := exec.Command("gcc", "-O2", "-static", "-x", "c", "-o", path, "-")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(readerSource), os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w", cmd, err)
	}
	return path, nil
}

// startAgent starts an agent and moves it into groups.
func startAgent(cmd *exec.Cmd, dirs []string) (*container, error) {
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &container{cmd, in, bufio.NewReaderSize(out, 256)}
	if err := enter(dirs, cmd.Process.Pid); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

// stop ends the container. It is safe to call twice, and beside a command.
func (c *container) stop() {
	_ = c.in.Close()         // its end says the same
	_ = c.cmd.Process.Kill() // an error says that it has ended
	_ = c.cmd.Wait()         // says that it was killed
}

// tell sends a command; hear returns the answer.
func (c *container) tell(command ...any) error {
	_, err := fmt.Fprintln(c.in, command...)
	return err
}

func (c *container) hear() ([]int64, error) {
	line, err := c.out.ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("the container's agent: %w", err)
	}
	line = strings.TrimSpace(line)
	if text, ok := strings.CutPrefix(line, "error "); ok {
		return nil, fmt.Errorf("the container's agent: %s", text)
	}
	var numbers []int64
	for _, f := range strings.Fields(line) {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

func (c *container) ask(command ...any) ([]int64, error) {
	if err := c.tell(command...); err != nil {
		return nil, err
	}
	return c.hear()
}

// startPatience is how long a daemon may take to mount.
const startPatience = 30 * time.Second
