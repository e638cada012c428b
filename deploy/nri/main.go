// SPDX-License-Identifier: Apache-2.0

// Command vprocfs-nri is an NRI plugin for containerd and CRI-O. It attaches the view of a
// running daemon to every container before its program starts, and sets what the
// annotations of pods say about the view.
//
// It fails open: without it, and if the daemon is dead or slow, containers start with the
// kernel's files.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"github.com/spf13/pflag"

	"vprocfs/initpid"
	"vprocfs/internal/attach"
	"vprocfs/internal/daemon"
	"vprocfs/internal/inject"
)

// reconnectPause is the time between two attempts to reach the runtime.
const reconnectPause = time.Second

// options are the command line.
type options struct {
	mount  string
	socket string
	index  string
	limit  time.Duration
}

func main() {
	// Both execute this program again as their helper.
	initpid.RunHelper()
	attach.RunHelper()
	if err := run(os.Args); err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "vprocfs-nri: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var o options
	fl := pflag.NewFlagSet(filepath.Base(args[0]), pflag.ContinueOnError)
	fl.StringVar(&o.mount, "mount", "/var/lib/vprocfs", "`DIR` is the mount point of a running daemon")
	fl.StringVar(&o.socket, "socket", api.DefaultSocketPath, "`PATH` of the NRI socket of the runtime")
	fl.StringVar(&o.index, "index", "10", "`NN`, two digits: the place among the plugins of the runtime")
	fl.DurationVar(&o.limit, "timeout", 1500*time.Millisecond, "how long the start of a container may wait for the view; must be below the runtime's plugin_request_timeout")
	if err := fl.Parse(args[1:]); err != nil {
		return err
	}
	if fl.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fl.Arg(0))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return serve(ctx, o, slog.New(slog.NewTextHandler(os.Stderr, nil)))
}

// serve runs the plugin until ctx ends. It connects again if the runtime restarts, and
// if the runtime has dropped the plugin.
func serve(ctx context.Context, o options, log *slog.Logger) error {
	p := &plugin{
		attach: func(ctx context.Context, pid int) error { return inject.Attach(ctx, pid, o.mount, o.limit) },
		setPolicy: func(pid int, words []string) error {
			return daemon.SetPolicy(daemon.PolicyTarget{PID: pid}, words)
		},
		limit:   o.limit,
		running: make(chan struct{}, syncWorkers),
		log:     log,
	}
	// A plugin that the runtime itself has started has one connection, and ends with it.
	_, once := os.LookupEnv(api.PluginSocketEnvVar)
	connected := make(chan struct{}, 1)
	for said := ""; ; {
		err := connect(ctx, p, o, log, connected)
		if ctx.Err() != nil {
			return nil
		}
		if once {
			return err
		}
		select {
		case <-connected:
			said = ""
		default:
		}
		if text := fmt.Sprint(err); text != said {
			said = text
			log.Warn("no connection to the runtime", "socket", o.socket, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(reconnectPause):
		}
	}
}

// connect runs the plugin over one connection. It sends to connected once it has one.
func connect(ctx context.Context, p *plugin, o options, log *slog.Logger, connected chan<- struct{}) error {
	opts := []stub.Option{
		stub.WithLogger(quiet{log}),
		stub.WithOnClose(func() {}), // else the process ends
		// A container must start without the view if this plugin is slow, and the next
		// one shall have it.
		stub.WithFailurePolicy(&api.FailurePolicy{KeepConnected: true}),
	}
	if _, named := os.LookupEnv(api.PluginNameEnvVar); !named {
		opts = append(opts, stub.WithPluginName("vprocfs"), stub.WithPluginIdx(o.index), stub.WithSocketPath(o.socket))
	}
	s, err := stub.New(p, opts...)
	if err != nil {
		return err
	}
	if err := s.Start(ctx); err != nil {
		return err
	}
	log.Info("connected to the runtime", "socket", o.socket)
	connected <- struct{}{}
	stopped := make(chan struct{})
	defer close(stopped)
	go func() {
		select {
		case <-ctx.Done():
			s.Stop()
		case <-stopped:
		}
	}()
	s.Wait()
	return errors.New("the connection has ended")
}

// quiet writes what the stub says to a log, but for what it does without an error.
type quiet struct{ log *slog.Logger }

func (q quiet) Debugf(context.Context, string, ...any) {}
func (q quiet) Infof(context.Context, string, ...any)  {}
func (q quiet) Warnf(_ context.Context, format string, args ...any) {
	q.log.Warn(fmt.Sprintf(format, args...))
}
func (q quiet) Errorf(_ context.Context, format string, args ...any) {
	q.log.Error(fmt.Sprintf(format, args...))
}
