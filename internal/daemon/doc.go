// Package daemon is the vprocfs daemon: a holder, which owns the mount, and its
// workers, which serve it. It connects the packages that do the work (fs,
// initpid, procvirt, supervise) and knows no file format.
package daemon
