// SPDX-License-Identifier: Apache-2.0

package test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	linkPattern    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	headingPattern = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notInAnchor    = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// TestLinksOfTheGuidesLeadSomewhere follows the links between files of the tree, and to
// headings in them.
func TestLinksOfTheGuidesLeadSomewhere(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	links := 0
	for _, page := range append(pages, "../README.md") {
		for _, link := range linkPattern.FindAllStringSubmatch(readFile(t, page), -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			links++
			if problem := followLink(t, page, link[1]); problem != "" {
				t.Errorf("%s: %s: %s", page, link[1], problem)
			}
		}
	}
	if links < 20 {
		t.Errorf("%d links were found", links)
	}
}

// followLink returns what is wrong with a link of a page.
func followLink(t *testing.T, page, link string) string {
	path, anchor, _ := strings.Cut(link, "#")
	target := page
	if path != "" {
		target = filepath.Join(filepath.Dir(page), path)
	}
	if _, err := os.Stat(target); err != nil {
		return "no such file"
	}
	if anchor == "" || slices.Contains(anchors(readFile(t, target)), anchor) {
		return ""
	}
	return "no such heading"
}

// anchors returns the names by which the headings of a page are linked.
func anchors(page string) []string {
	var names []string
	for _, h := range headingPattern.FindAllStringSubmatch(page, -1) {
		name := notInAnchor.ReplaceAllString(strings.ToLower(h[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}

// TestEachSourceFileNamesItsLicence, in its first lines, as tools look for it (spdx.dev).
func TestEachSourceFileNamesItsLicence(t *testing.T) {
	files := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "build" || d.Name() == ".git"):
			return filepath.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		text := readFile(t, path)
		isShell := strings.HasPrefix(text, "#!/bin/sh\n") || strings.HasPrefix(text, "#!/usr/bin/env bash\n")
		if !isShell && !slices.Contains([]string{".go", ".c", ".service"}, filepath.Ext(path)) {
			return nil
		}
		files++
		lines := strings.SplitN(text, "\n", 3)
		if lines[0] != "// SPDX-License-Identifier: Apache-2.0" && lines[0] != "# SPDX-License-Identifier: Apache-2.0" &&
			(!isShell || lines[1] != "# SPDX-License-Identifier: Apache-2.0") {
			t.Errorf("%s names no licence", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 300 {
		t.Errorf("%d files were found", files)
	}
}
