// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"math/rand/v2"
	"unsafe"

	"vprocfs/fs/journal"
)

// area is what the journal keeps of the open files.
type area struct {
	header  areaHeader
	_       [64 - unsafe.Sizeof(areaHeader{})]byte
	handles [maxHandles]handle
	recents [numRecents]recent
	links   [numPieces]int32
	texts   [arenaSize]byte
}

type areaHeader struct {
	epoch uint64 // 0 in an area that is new
	grown uint32 // handles that were ever in use
}

// areaVersion changes with what area means. An area of another version, or with sizes
// that another compiler has chosen, is lost, and with it the texts that are being read.
const areaVersion = 3

func areaLayout() journal.Layout {
	sizes := uint64(unsafe.Sizeof(handle{}))<<32 | uint64(unsafe.Sizeof(recent{}))<<16 | uint64(unsafe.Sizeof(Caller{}))
	return journal.Layout{Size: int(unsafe.Sizeof(area{})), Version: areaVersion<<48 | sizes}
}

// layOut returns the area of j.
func layOut(j *journal.Journal) *area {
	a := (*area)(unsafe.Pointer(&j.Area()[0]))
	if a.header.epoch == 0 {
		a.header.epoch = max(rand.Uint64()>>epochBase, 1) << epochBase
	}
	return a
}

// NewJournal makes an empty journal for the connection c, whose file system has the number
// dev (st_dev), 0 if it is not known.
func NewJournal(c *Conn, dev uint64) (*journal.Journal, error) {
	return journal.New(areaLayout(), dev, c.minor)
}

// OpenJournal opens the journal fd as journal.Open does, and makes a Conn of the descriptor
// fuse of its connection. It takes both descriptors over if it succeeds.
func OpenJournal(fd, fuse int) (*journal.Journal, *Conn, error) {
	j, err := journal.Open(fd, areaLayout())
	if err != nil {
		return nil, nil, err
	}
	return j, &Conn{fuse, j.Minor()}, nil
}
