package supervise

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// How long a client waits for a holder. A ping takes no time unless the holder is
// stopped or hangs. An upgrade may have to wait for a worker that works first.
const (
	pingPatience    = 10 * time.Second
	upgradePatience = 2 * time.Minute
)

// AskUpgrade asks the holder that listens at SocketDir/NAME for an upgrade, and waits
// for its end.
func AskUpgrade(name string) error {
	path := filepath.Join(SocketDir, name)
	if err := ask(path, verbPing, pingPatience); err != nil {
		return err
	}
	return ask(path, verbUpgrade, upgradePatience)
}

// ask sends one request to the holder that listens at path, and returns its error.
func ask(path, verb string, patience time.Duration) error {
	c, err := net.DialTimeout("unix", path, patience)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("no daemon listens at %s", path)
	case errors.Is(err, unix.EPROTOTYPE):
		return fmt.Errorf("%s: the daemon is too old to be asked: restart it", path)
	case err != nil:
		return err
	}
	defer func() { _ = c.Close() }() // the response has been read
	b, _ := json.Marshal(request{requestVersion, verb})
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := c.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	line, err := bufio.NewReaderSize(c, maxRequest).ReadSlice('\n')
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%s: no answer to %q in %s: the daemon is stopped or hangs", path, verb, patience)
	case errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET):
		return fmt.Errorf("%s: no answer: the daemon has ended", path)
	case err != nil:
		return fmt.Errorf("%s: %w", path, err)
	}
	var r response
	if err := json.Unmarshal(line, &r); err != nil {
		return fmt.Errorf("%s: answer %q: %w", path, line, err)
	}
	if !r.OK {
		return errors.New(r.Error)
	}
	return nil
}
