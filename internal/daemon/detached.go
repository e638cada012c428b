package daemon

import (
	"log/slog"
	"os"

	"vprocfs/fs"
)

// ServeDetached serves the view on a mount that is attached nowhere, until this process
// ends, and returns its root. Only the holders of that file can reach the mount, so it
// never shows on the host.
func ServeDetached(o ViewOptions, log *slog.Logger) (*os.File, error) {
	src, err := newSource(o, log)
	if err != nil {
		return nil, err
	}
	conn, fd, err := fs.MountDetached(fs.MountOptions{})
	if err != nil {
		src.Close()
		return nil, err
	}
	go func() {
		if err := fs.NewServer(conn, src, src.serverOptions(conn, nil)).Serve(); err != nil {
			log.Error("the container has lost its view", "err", err)
		}
	}()
	return os.NewFile(uintptr(fd), "view"), nil
}
