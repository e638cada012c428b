// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"log/slog"
	"os/signal"
	"syscall"

	"vprocfs/internal/attach"
	"vprocfs/internal/node"
)

// defaultPodMount is the default mount point of a daemon that serves from a pod. Volumes of
// pods lead to the directory above it: one that is itself the mount of a dead daemon would
// keep the next pod from starting.
const defaultPodMount = "/run/vprocfs/node"

func nodeCommand(output io.Writer) *command {
	var o node.Options
	fl := newFlags("node")
	fl.StringVar(&o.Host, "host", "/host", "`DIR` where the root directory of the host is mounted")
	fl.StringVar(&o.Image, "image", "/", "`DIR` that is the root directory of the image")
	fl.StringVar(&o.Prefix, "prefix", "/opt/vprocfs", "`DIR` on the host for the programs, and nothing else")
	fl.StringVar(&o.Flags, "serve-flags", "", "further `FLAGS` of vprocfs serve, separated by spaces")
	fl.BoolVar(&o.NRI, "nri", false, "install the NRI plugin too, for annotations of pods")
	dir := fl.String("mount", defaultPodMount, "with serve, `DIR` is the mount point, in a volume that propagates mounts to the host")
	return &command{
		name:    "node",
		summary: "in a pod of Kubernetes, install the daemon on the host",
		usage:   "node [flags] install|remove|serve|wait",
		details: `What the pods of deploy/kubernetes run. install puts the daemon of the image on the host,
as a service of its systemd, or upgrades the one that is there, which no reader notices.
remove takes it away. Both do nothing on a host without systemd. On such a host serve runs
the daemon in the pod; elsewhere it only waits, as wait does.
`,
		flags: fl,
		run: func(ctx context.Context, args []string) error {
			if len(args) != 1 {
				return usageErrorf("want one of install, remove, serve and wait")
			}
			o.Log = slog.New(slog.NewTextHandler(output, nil))
			ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			switch args[0] {
			case "install":
				return node.Install(ctx, o)
			case "remove":
				return node.Remove(ctx, o)
			case "serve":
				return node.Serve(ctx, node.ServeOptions{
					Host: o.Host, Dir: *dir, Flags: o.Flags, Log: o.Log,
					Heal: func(ctx context.Context) error {
						return heal(ctx, attach.HealOptions{Dir: *dir}, output)
					},
					Clear: func(ctx context.Context) error {
						return heal(ctx, attach.HealOptions{Dir: *dir, Remove: true}, output)
					},
				})
			case "wait":
				<-ctx.Done()
				return nil
			}
			return usageErrorf("%q is not one of install, remove, serve and wait", args[0])
		},
	}
}
