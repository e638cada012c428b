package syscalls

import (
	"os"
	"strconv"

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

// newTag returns the tag of the thread with the given id.
func newTag(what tag, id int) tag {
	started, _, _ := threadState(id) // of this process
	return what<<(startBits+idBits) | tag(id)<<startBits | tag(started&(1<<startBits-1))
}

func (t tag) what() tag { return t >> (startBits + idBits) }

// alive reports whether what t names may still do something.
func (t tag) alive() bool {
	started, state, ok := threadState(int(t >> startBits & (1<<idBits - 1)))
	return ok && state != 'Z' && state != 'X' && tag(started&(1<<startBits-1)) == t&(1<<startBits-1)
}

func threadState(id int) (started uint64, state byte, ok bool) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(id) + "/stat")
	if err != nil {
		return 0, 0, false
	}
	started, ok = procpid.StartTime(stat)
	return started, procpid.State(stat), ok
}
