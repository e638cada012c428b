// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
)

func versionCommand(stdout io.Writer) *command {
	return &command{
		name:    "version",
		summary: "print the versions of vprocfs and of what it is built with",
		usage:   "version",
		flags:   newFlags("version"),
		run: func(_ context.Context, args []string) error {
			if err := noArguments(args); err != nil {
				return err
			}
			info, ok := debug.ReadBuildInfo()
			if !ok {
				return fmt.Errorf("this binary has no build information")
			}
			_, err := io.WriteString(stdout, versionText(info))
			return err
		},
	}
}

// versionText returns one "name value" pair a line. It omits the commit if the build
// information has none.
func versionText(info *debug.BuildInfo) string {
	var b strings.Builder
	fmt.Fprintf(&b, "vprocfs  %s\n", info.Main.Version)
	commit, modified := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = " (modified)"
		}
	}
	if commit != "" {
		fmt.Fprintf(&b, "commit   %s%s\n", commit, modified)
	}
	fmt.Fprintf(&b, "go       %s %s/%s\n", info.GoVersion, runtime.GOOS, runtime.GOARCH)
	for _, dep := range info.Deps {
		if dep.Path == "github.com/hanwen/go-fuse/v2" {
			fmt.Fprintf(&b, "go-fuse  %s\n", dep.Version)
		}
	}
	return b.String()
}
