package daemon

import (
	"log/slog"
	"os"

	"vprocfs/fs"
)

// ServeDetached serves the view on mounts that are attached nowhere, until this
// process ends, and returns the root of each: the view and, if the host has PSI,
// its proc/pressure. Only the holders of these files can reach the mounts, so
// they never show on the host.
func ServeDetached(o ViewOptions, log *slog.Logger) ([]*os.File, error) {
	src, err := newSource(o, log)
	if err != nil {
		return nil, err
	}
	conn, fd, err := fs.MountDetached(fs.MountOptions{})
	if err != nil {
		src.Close()
		return nil, err
	}
	views := []*os.File{os.NewFile(uintptr(fd), "view")}
	go func() {
		if err := fs.NewServer(conn, src, src.serverOptions()).Serve(); err != nil {
			log.Error("the container has lost its view", "err", err)
		}
	}()
	if src.registry.HasPressure() {
		mount, err := servePressure(src, log, fs.MountOptions{})
		if err != nil {
			views[0].Close()
			return nil, err
		}
		views = append(views, mount)
	}
	return views, nil
}
