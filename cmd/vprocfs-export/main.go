// Command vprocfs-export answers Prometheus' scrapes with the metrics of a vprocfs daemon,
// which it asks by the control socket. It is a program of its own so that the daemon has no
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

	"vprocfs/internal/metrics"
	"vprocfs/internal/report"
)

// defaultAddress is where scrapes are answered: for this host only.
const defaultAddress = "127.0.0.1:9891"

// endPatience is how long scrapes may take at the end.
const endPatience = 2 * time.Second

func main() {
	fl := pflag.NewFlagSet("vprocfs-export", pflag.ContinueOnError)
	fl.SortFlags = false
	address := fl.String("listen", defaultAddress, "`ADDRESS` to answer scrapes at: HOST:PORT, or unix:PATH")
	mount := fl.String("mount", "", "mount point of the daemon (default "+report.DefaultMount+", or the only one that runs)")
	perContainer := fl.Int("per-container", 0, "metrics of their own for the `N` containers that read most")
	err := fl.Parse(os.Args[1:])
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return
	case err == nil && fl.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", fl.Arg(0))
	case err == nil && *perContainer < 0:
		err = fmt.Errorf("invalid argument %d for --per-container: must not be negative", *perContainer)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "vprocfs-export:", err)
		os.Exit(2)
	}
	if err := export(*address, *mount, *perContainer); err != nil {
		fmt.Fprintln(os.Stderr, "vprocfs-export:", err)
		os.Exit(1)
	}
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
