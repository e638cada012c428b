// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// archive is a Debian suite that packages are taken from without installing them. apt does it, with a state of its own:
// it verifies signatures and knows the machine's proxy, and the machine's own apt and dpkg stay as they are.
type archive struct {
	ctx context.Context
	dir string // of apt's state
}

// openArchive fetches the lists of a suite into dir, which must be there.
func openArchive(ctx context.Context, dir, suite, mirror string) (*archive, error) {
	dir, err := filepath.Abs(dir) // apt takes relative directories as its own
	if err != nil {
		return nil, err
	}
	if mirror, err = findMirror(ctx, mirror, suite); err != nil {
		return nil, err
	}
	for _, d := range []string{"lists/partial", "cache/archives/partial", "none", "debs"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	source := fmt.Sprintf("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n", mirror, suite)
	if err := os.WriteFile(filepath.Join(dir, "sources.list"), []byte(source), 0o644); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "status"), nil, 0o644); err != nil {
		return nil, err
	}
	a := &archive{ctx: ctx, dir: dir}
	_, err = a.apt("apt-get", "update")
	return a, err
}

func (a *archive) apt(name string, args ...string) (string, error) {
	options := []string{
		"-qq",
		"-oDir::State=" + a.dir, "-oDir::State::lists=" + a.dir + "/lists", "-oDir::State::status=" + a.dir + "/status",
		"-oDir::Cache=" + a.dir + "/cache", "-oDir::Etc::sourcelist=" + a.dir + "/sources.list",
		"-oDir::Etc::sourceparts=" + a.dir + "/none", "-oDir::Etc::preferencesparts=" + a.dir + "/none",
		"-oAPT::Architecture=amd64", "-oAPT::Architectures=amd64", "-oAPT::Sandbox::User=root",
		"-oAcquire::Languages=none", "-oAPT::Update::Error-Mode=any",
	}
	return output(a.ctx, filepath.Join(a.dir, "debs"), name, append(options, args...)...)
}

// show returns the control fields of the newest version of a package.
func (a *archive) show(name string) (string, error) {
	return a.apt("apt-cache", "show", "--no-all-versions", name)
}

// unpack downloads packages and extracts their files below root. No maintainer script runs.
func (a *archive) unpack(root string, packages ...string) error {
	if _, err := a.apt("apt-get", append([]string{"download"}, packages...)...); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(a.dir, "debs", "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if _, err := output(a.ctx, "", "dpkg-deb", "-x", deb, root); err != nil {
			return err
		}
	}
	return nil
}

// findMirror returns the address that serves a suite: below the mirror given, or where the machine's own apt gets
// its packages from.
func findMirror(ctx context.Context, mirror, suite string) (string, error) {
	archive := "debian"
	if strings.HasSuffix(suite, "-security") {
		archive = "debian-security"
	}
	var uris []string
	if mirror != "" {
		uris = []string{mirror}
	} else {
		s, err := output(ctx, "", "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages")
		if err != nil {
			return "", err
		}
		uris = strings.Fields(s)
	}
	for _, u := range uris {
		if u = strings.TrimRight(u, "/"); strings.HasSuffix(u, "/"+archive) {
			return u, nil
		}
	}
	for _, u := range uris { // mirrors keep the two archives side by side
		if u = strings.TrimRight(u, "/"); strings.HasSuffix(u, "/debian") {
			return strings.TrimSuffix(u, "debian") + archive, nil
		}
	}
	return "", errors.New("apt has no Debian mirror in its sources; give one with -mirror")
}
