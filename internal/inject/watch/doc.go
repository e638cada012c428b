// SPDX-License-Identifier: Apache-2.0

// Package watch finds containers as they start, and those that already run, and has
// them attached.
//
// A source reports processes that may be, or may soon be, the init of a container
// (source.go and the files named after the sources). Rules decide from /proc which
// of them are containers (rules.go, process.go). Those that are not ready yet are
// watched until they are (candidates.go). Those that are get their files from an
// Attacher, fairly by owner (queue.go).
//
// Nothing here waits for a container, and no container waits for this package: if
// anything fails, the container starts with the kernel's files.
package watch
