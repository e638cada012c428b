// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// toolEnv names the tool that the test binary is to be, in place of running
// tests: programs that a container needs and Debian has not.
const toolEnv = "VPROCFS_TEST_TOOL"

// toolCommand makes a command line that starts a tool, also in a container,
// which has the host's files.
func toolCommand(t testing.TB, tool string, args ...string) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{"env", toolEnv + "=" + tool, self}, args...)
}

// runTool returns the exit status of the tool.
func runTool(tool string) int {
	var err error
	switch tool {
	case "reread":
		err = reread(os.Args[1])
	case "psi":
		err = watchPressure(os.Args[1:])
	case "osread":
		err = osRead(os.Args[1:])
	case "survive":
		err = survive(os.Args[1])
	case "survive-calls":
		err = surviveCalls(os.Args[1])
	case "deaf":
		err = deaf()
	case "block":
		err = block()
	case "threads":
		var n int
		if n, err = strconv.Atoi(os.Args[1]); err == nil {
			err = idleThreads(n)
		}
	case "hung":
		var n int
		if n, err = strconv.Atoi(os.Args[1]); err == nil {
			err = hungNamespaces(n)
		}
	case "become":
		err = become(os.Args[1])
	case "hung-mounts":
		err = hungMounts()
	case "orphans":
		err = orphans()
	case "hoard":
		eachLine(new(hoarder).obey)
	case "crowd":
		eachLine(crowdOf)
	case "hammer":
		eachLine(new(hammerer).obey)
	case "lease":
		if err = dropCaps(); err == nil {
			eachLine(new(leaser).obey)
		}
	case "leases":
		err = leaseOften(os.Args[1:])
	case "open":
		eachLine(openLine)
	case "namespaces":
		eachLine(namespacesThatRead)
	case "echo":
		err = echo(os.Args[1])
	case "neighbour":
		eachLine(timeNeighbour)
	case "sysinfo":
		err = printSysinfo(os.Args[1])
	case "latency":
		eachLine(latencies)
	case "syscalls-child":
		err = fuzzChild(os.Args[2:])
	case "syscalls":
		eachLine(fuzzSystemCalls)
	default:
		err = runReader(tool, os.Args[1:], fmt.Errorf("no such tool"))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", tool, err)
		return 1
	}
	return 0
}

// eachLine obeys each line of the input, and prints a line "." behind what that
// prints.
func eachLine(obey func(line string) error) {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if err := obey(in.Text()); err != nil {
			fmt.Println("error:", err)
		}
		fmt.Println(".")
	}
}

// reread opens path once, and prints what pread(2) at offset 0 gives for each
// line of its input, with a line "." behind it.
func reread(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		n, err := unix.Pread(fd, buf, 0)
		if err != nil {
			return err
		}
		fmt.Printf("%s.\n", buf[:n])
	}
	return nil
}

// orphans leaves processes that their parent does not wait for, tells how many
// zombies are in the pid namespace a while after, and ends.
func orphans() error {
	for range 20 {
		if err := exec.Command("sh", "-c", "sh -c 'exit 3' & sh -c 'sleep 0.05' & exit 0").Run(); err != nil {
			return err
		}
	}
	for range 200 {
		if n, err := zombies(); err != nil || n == 0 {
			fmt.Println(n)
			return err
		}
		sleep(50)
	}
	n, err := zombies()
	fmt.Println(n)
	return err
}

// zombies counts the zombies that /proc shows.
func zombies() (n int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		b, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // no process, or gone
		}
		if f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:])); e.Name() != "self" && len(f) > 0 && f[0] == "Z" {
			n++
		}
	}
	return n, nil
}
