// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/containerd/nri/pkg/api"
)

// viewOff is the word of a policy by which a container keeps the kernel's files.
const viewOff = "view=off"

// plugin attaches the view to containers on the events of NRI. It never returns an error
// to the runtime, which would not start the container then.
type plugin struct {
	// attach attaches the files of the daemon in the container of a process.
	attach func(ctx context.Context, pid int) error
	// setPolicy sets words of the policy of the container of a process.
	setPolicy func(pid int, words []string) error
	// limit is how long a start may wait for the two. The runtime drops a plugin that
	// is slower than its own limit, 2 s by default.
	limit time.Duration
	// running bounds how many containers are attached at the same time at
	// Synchronize.
	running chan struct{}
	log     *slog.Logger
}

// syncWorkers is how many containers that run already are attached at the same time.
const syncWorkers = 4

// StartContainer is called when the container is made and its program has not begun.
func (p *plugin) StartContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error { //nolint:unparam // an interface of NRI, in which an error keeps the container from starting
	if err := p.bounded(ctx, pod, c); err != nil {
		p.log.Warn("container starts with the kernel's files", names(pod, c, "error", err)...)
	}
	return nil
}

// Synchronize is called with all pods and containers when the plugin connects. Those that
// run get the view in the background: the runtime waits for the answer.
func (p *plugin) Synchronize(ctx context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) { //nolint:unparam // an interface of NRI; nothing is updated
	ctx = context.WithoutCancel(ctx)
	go func() {
		for _, c := range containers {
			if s := c.GetState(); s != api.ContainerState_CONTAINER_RUNNING && s != api.ContainerState_CONTAINER_PAUSED {
				continue
			}
			i := slices.IndexFunc(pods, func(pod *api.PodSandbox) bool { return pod.GetId() == c.GetPodSandboxId() })
			var pod *api.PodSandbox
			if i >= 0 {
				pod = pods[i]
			}
			p.running <- struct{}{}
			go func() {
				defer func() { <-p.running }()
				if err := p.bounded(ctx, pod, c); err != nil {
					p.log.Warn("container keeps the kernel's files", names(pod, c, "error", err)...)
				}
			}()
		}
	}()
	return nil, nil
}

// bounded is handle that returns by p.limit.
func (p *plugin) bounded(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	ctx, cancel := context.WithTimeout(ctx, p.limit)
	done := make(chan error, 1)
	go func() {
		defer cancel()
		done <- p.handle(ctx, pod, c)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done: // which ended the context
		return err
	default:
		return fmt.Errorf("not attached within %s", p.limit)
	}
}

// handle sets the policy of a container and attaches the view.
func (p *plugin) handle(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	pid := int(c.GetPid())
	if pid <= 0 {
		return fmt.Errorf("the runtime does not tell the pid of the container")
	}
	words := policyWords(pod, c)
	if len(words) > 0 {
		// A policy that is wrong is not a reason to show the host's numbers.
		if err := p.setPolicy(pid, words); err != nil {
			p.log.Warn("policy of the annotations not set", names(pod, c, "policy", words, "error", err)...)
		}
	}
	if slices.Contains(words, viewOff) {
		return nil
	}
	return p.attach(ctx, pid)
}

// names are the attributes of a log line about a container.
func names(pod *api.PodSandbox, c *api.Container, more ...any) []any {
	return append([]any{"namespace", pod.GetNamespace(), "pod", pod.GetName(), "container", c.GetName(), "id", c.GetId()}, more...)
}
