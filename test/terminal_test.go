// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// session is a program on a terminal of its own.
type session struct {
	cmd    *exec.Cmd
	master *os.File
	seen   strings.Builder
}

// onTerminal starts a command on a new terminal, as its session leader.
func onTerminal(t *testing.T, command ...string) *session {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	master := os.NewFile(uintptr(fd), "ptmx")
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "PS1=$ ", "ENV=", "TERM=dumb")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return &session{cmd: cmd, master: master}
}

func (s *session) send(t *testing.T, keys string) {
	t.Helper()
	if _, err := s.master.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

// expect reads until the screen shows text that it has not shown before, and
// forgets what was up to there. It returns what came before the text.
func (s *session) expect(t *testing.T, text string) (before string) {
	t.Helper()
	if err := s.master.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for {
		seen := s.seen.String()
		if before, rest, ok := strings.Cut(seen, text); ok {
			s.seen.Reset()
			s.seen.WriteString(rest)
			return before
		}
		n, err := s.master.Read(buf)
		s.seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("waiting for %q: %v; the terminal has %q", text, err, s.seen.String())
		}
	}
}

func TestInterruptKeyReachesTheCommandOnce(t *testing.T) {
	s := onTerminal(t, "vprocfs", "run", "--", "sh", "-c",
		`trap 'n=$((n+1))' INT; echo ready; read x; sleep 1; read y; echo "interrupts: $n"`)
	s.expect(t, "ready")
	s.send(t, "\x03")
	s.send(t, "\n\n\n")
	s.expect(t, "interrupts: 1\r\n")
	if err := s.cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestInterruptKeyEndsTheContainer(t *testing.T) {
	s := onTerminal(t, "vprocfs", "run", "--", "sh", "-c", "echo ready; exec sleep 1000")
	s.expect(t, "ready")
	s.send(t, "\x03")
	s.cmd.Wait()
	if got := s.cmd.ProcessState.ExitCode(); got != 128+2 {
		t.Errorf("exit status %d, want %d", got, 128+2)
	}
}

func TestJobControlAroundAContainer(t *testing.T) {
	s := onTerminal(t, "sh", "-i")
	s.send(t, "vprocfs run -- sh -c 'echo rea''dy; read x; echo con''tinued; exit 5'\n")
	s.expect(t, "ready")
	s.send(t, "\x1a")
	s.expect(t, "Stopped")
	s.send(t, "fg\n")
	s.expect(t, "vprocfs run")
	s.send(t, "\n")
	s.expect(t, "continued")
	s.send(t, "echo status=$?\n")
	s.expect(t, "status=5")
}

func TestJobControlInAContainer(t *testing.T) {
	s := onTerminal(t, "vprocfs", "run", "--", "sh", "-i")
	s.send(t, "sh -c 'echo rea''dy; read x; echo con''tinued; exit 5'\n")
	s.expect(t, "ready")
	s.send(t, "\x1a")
	s.expect(t, "Stopped")
	s.send(t, "fg\n")
	s.expect(t, "sh -c")
	s.send(t, "\n")
	s.expect(t, "continued")
	s.expect(t, "$ ")
	s.send(t, "sh -c 'echo aga''in; exec sleep 1000'\n")
	s.expect(t, "again")
	s.send(t, "\x03")
	s.expect(t, "$ ")
	s.send(t, "echo status=$?\n")
	s.expect(t, "status=130")
	s.send(t, "exit 6\n")
	s.cmd.Wait()
	if got := s.cmd.ProcessState.ExitCode(); got != 6 {
		t.Errorf("exit status %d, want 6; the terminal has %q", got, s.rest())
	}
}

func TestTerminalComesBackFromAShellInAContainer(t *testing.T) {
	s := onTerminal(t, "sh", "-c", `vprocfs run -- sh -i; read answer; echo "got $answer"`)
	s.send(t, "echo in''side\n")
	s.expect(t, "inside")
	s.send(t, "exit\n")
	s.send(t, "hello\n")
	s.expect(t, "got hello")
}

// rest reads what the terminal still has, after its program has ended.
func (s *session) rest() string {
	buf := make([]byte, 4096)
	for {
		n, err := s.master.Read(buf)
		s.seen.Write(buf[:n])
		if err != nil { // EIO: no one has it open any more
			return s.seen.String()
		}
	}
}

func TestStopKeyWithoutAShellStopsNothing(t *testing.T) {
	s := onTerminal(t, "vprocfs", "run", "--", "sh", "-c", "echo rea''dy; read x; echo con''tinued; exit 5")
	s.expect(t, "ready")
	s.send(t, "\x1a")
	sleep(500)
	s.send(t, "\n")
	s.expect(t, "continued")
	s.cmd.Wait()
	if got := s.cmd.ProcessState.ExitCode(); got != 5 {
		t.Errorf("exit status %d, want 5", got)
	}
}
