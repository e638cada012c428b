package supervise

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
)

// SocketDir is where holders listen, for root only.
const SocketDir = "/run/vprocfs"

// Listen makes the holder take requests for upgrades at SocketDir/NAME, from root.
func (h *Holder) Listen(name string) error {
	if err := os.MkdirAll(SocketDir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(SocketDir, name)
	// Left by a holder that died: each name is one mount's, and the mount ours.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return err
	}
	h.listener = l
	h.asking = make(chan *replyTo)
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return // closed
			}
			h.asking <- &replyTo{c}
		}
	}()
	return nil
}

// Unlisten removes the socket.
func (h *Holder) Unlisten() {
	if h.listener != nil {
		_ = h.listener.Close() // removes the path too
	}
}

// AskUpgrade asks the holder that listens at SocketDir/NAME for an upgrade, and
// waits for its end.
func AskUpgrade(name string) error {
	path := filepath.Join(SocketDir, name)
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // only read from
	b := make([]byte, maxMessage)
	n, err := c.Read(b)
	switch {
	case errors.Is(err, io.EOF) || err == nil && n == 0:
		return fmt.Errorf("%s: no answer: the holder has ended", path)
	case err != nil:
		return err
	case string(b[:n]) != "ok":
		return errors.New(string(b[:n]))
	}
	return nil
}
