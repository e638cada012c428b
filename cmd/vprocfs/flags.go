// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"vprocfs/internal/daemon"
)

// addLogFlags adds the flags of the log on stderr. Their defaults are those in o.
func addLogFlags(fl *pflag.FlagSet, o *daemon.LogOptions) {
	fl.Var(logLevel{&o.Level}, "log-level", "lowest `LEVEL` to log: debug, info, warn or error")
	fl.Var(&choice{words: [2]string{"text", "json"}, second: &o.JSON}, "log-format", "format of log lines: text or json")
}

// addViewFlags adds the flags that change what containers see.
func addViewFlags(fl *pflag.FlagSet, o *daemon.ViewOptions) {
	word := func(second *bool, name, first, other, usage string) {
		fl.Var(&choice{words: [2]string{first, other}, second: second}, name, usage)
	}
	fl.Var(&o.InitPID, "init-pid", "how the init of a pid namespace is found: auto, ioctl (Linux 6.11), parents or fork")
	fl.DurationVar(&o.TTL, "cache-ttl", daemon.DefaultTTL, "how long the container of a process is cached")
	fl.Var(&o.Policy, "cgroup-source", "whose control group is the container's: auto, init or caller")
	word(&o.IgnoreQuota, "cpu-view", "quota", "cpuset", "CPUs to show: quota (as many as quota and cpuset allow) or cpuset")
	word(&o.HostLoad, "loadavg", "on", "host", "load averages to show: on (the container's) or host")
	word(&o.NoSwap, "swap", "on", "off", "show swap: on or off")
	word(&o.NoZswap, "zswap", "on", "off", "show zswap: on or off")
}

// checkView returns an error if a flag of addViewFlags has an invalid value.
func checkView(o *daemon.ViewOptions) error {
	if o.TTL <= 0 {
		return usageErrorf("invalid argument %q for --cache-ttl: must be more than 0", o.TTL)
	}
	return nil
}

// logLevel is a flag that takes a level of slog.
type logLevel struct{ level *slog.Level }

func (l logLevel) String() string {
	if l.level == nil {
		return ""
	}
	return strings.ToLower(l.level.String())
}

func (logLevel) Type() string { return "level" }

func (l logLevel) Set(s string) error {
	if l.level.UnmarshalText([]byte(s)) != nil {
		return errors.New("must be debug, info, warn or error")
	}
	return nil
}

// unixSocket is a flag that takes unix: and an absolute path.
type unixSocket struct{ path *string }

func (u unixSocket) String() string {
	if u.path == nil || *u.path == "" {
		return ""
	}
	return "unix:" + *u.path
}

func (unixSocket) Type() string { return "socket" }

func (u unixSocket) Set(s string) error {
	path, ok := strings.CutPrefix(s, "unix:")
	if !ok || !filepath.IsAbs(path) {
		return errors.New("must be unix: and an absolute path")
	}
	*u.path = path
	return nil
}

// choice is a flag that takes one of two words, the first by default.
type choice struct {
	words  [2]string
	second *bool // whether the second word is chosen
}

func (c *choice) String() string {
	if c.second != nil && *c.second {
		return c.words[1]
	}
	return c.words[0]
}

func (c *choice) Type() string {
	return min(c.words[0], c.words[1]) + "|" + max(c.words[0], c.words[1])
}

func (c *choice) Set(s string) error {
	if s != c.words[0] && s != c.words[1] {
		return fmt.Errorf("must be %s or %s", c.words[0], c.words[1])
	}
	*c.second = s == c.words[1]
	return nil
}
