// SPDX-License-Identifier: Apache-2.0

package syscalls

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/procpid"
)

// tag names a thread, or a process, and what it is: 2 bits for that, 22 for its id, and 40
// for when it was started, so that another one that gets the id is not taken for it.
type tag uint64

// What a tag is of.
const (
	workerTag tag = 1 + iota
	writerTag     // a thread that touches a caller's memory
	holderTag
)

const (
	startBits = 40
	idBits    = 22 // PID_MAX_LIMIT
)

// newTag returns the tag of the thread with the given id, which is of this process.
func newTag(what tag, id int) tag {
	for {
		started, _, err := threadState(id)
		if err == nil {
			return what<<(startBits+idBits) | tag(id)<<startBits | tag(started&(1<<startBits-1))
		}
		time.Sleep(tagPause) // until there are descriptors, or memory
	}
}

const tagPause = 10 * time.Millisecond

func (t tag) what() tag { return t >> (startBits + idBits) }

// alive reports whether what t names may still do something. On any doubt it may.
func (t tag) alive() bool {
	started, state, err := threadState(int(t >> startBits & (1<<idBits - 1)))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH)
	}
	return state != 'Z' && state != 'X' && tag(started&(1<<startBits-1)) == t&(1<<startBits-1)
}

func threadState(id int) (started uint64, state byte, err error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(id) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	started, ok := procpid.StartTime(stat)
	if !ok {
		return 0, 0, fmt.Errorf("stat of thread %d: %q", id, stat)
	}
	return started, procpid.State(stat), nil
}
