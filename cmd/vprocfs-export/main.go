// SPDX-License-Identifier: Apache-2.0

// Command vprocfs-export answers Prometheus' scrapes with the metrics of a vprocfs daemon,
// which it asks by the control socket. `vprocfs export` starts it. It is a program of its own so that the daemon has no
// network port, and no library for one.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"vprocfs/internal/companion"
	"vprocfs/internal/metrics"
	"vprocfs/internal/report"
)

// endPatience is how long scrapes may take at the end.
const endPatience = 2 * time.Second

func main() {
	fl := pflag.NewFlagSet(companion.ExportName, pflag.ContinueOnError)
	fl.SortFlags = false
	var o companion.Export
	o.AddFlags(fl)
	err := fl.Parse(os.Args[1:])
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return
	case err == nil && fl.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", fl.Arg(0))
	case err == nil:
		err = o.Check()
	}
	if err != nil {
		fail(2, err)
	}
	if err := export(o.Listen, o.Mount, o.PerContainer); err != nil {
		fail(1, err)
	}
}

func fail(status int, err error) {
	fmt.Fprintln(os.Stderr, companion.ExportName+": "+report.Printable(err.Error()))
	os.Exit(status)
}

// export answers scrapes until a signal comes.
func export(address, mount string, perContainer int) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	server, err := metrics.NewServer(&metrics.Collector{
		Find: func() (metrics.Source, error) { return report.Find(mount) }, PerContainer: perContainer,
	})
	if err != nil {
		return err
	}
	network := "tcp"
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "vprocfs-export: listening at", listener.Addr())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.Background(), endPatience)
	defer cancel()
	if err := server.Shutdown(end); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
