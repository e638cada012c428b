// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"sync/atomic"
	"unsafe"
)

const (
	// SlotSize is how many bytes one read(2) from /dev/fuse may return.
	SlotSize = 8192
	// MaxRecords bounds the requests that are noted at the same time.
	MaxRecords = 1 << 14
	// MaxNoted is how many bytes of a request a record holds. It is a multiple of 8.
	MaxNoted = 304
	// maxAttempts is how often a request may be tried by processes that crash.
	maxAttempts = 2
)

// record is a request that was noted and is not answered. It takes 320 bytes.
type record struct {
	length uint32 // of the whole request; 0: none; stored last
	// attempts is how often processes that crashed have tried it.
	attempts uint32
	_        uint64
	request  [MaxNoted]byte // its beginning, 8-byte aligned
}

// Request is a request that is not answered: in the slot, as it was read, or in a record
// once it was noted. Its first word is its length, as in struct fuse_in_header, which the
// kernel stores and which is never 0. A Request is for one goroutine at a time; a copy
// stands for the same request.
type Request struct {
	journal  *Journal
	bytes    []byte
	record   int32 // noRecord: it is in the slot
	replayed bool
}

const noRecord = -1

// Slot is where the one goroutine that reads requests reads them to, 8-byte aligned. It
// is in use from the moment that the kernel has copied a request until the Request that
// Received returns is Noted or Done.
func (j *Journal) Slot() []byte {
	return j.mem[slotOffset : slotOffset+SlotSize : slotOffset+SlotSize]
}

// Received returns the request of n bytes that was read to the slot.
func (j *Journal) Received(n int) Request {
	return Request{journal: j, bytes: j.Slot()[:n], record: noRecord}
}

// Bytes returns the request, which is cut off after MaxNoted bytes if it was left by
// another process. It is valid until Note or Done.
func (r *Request) Bytes() []byte { return r.bytes }

// Replayed reports whether a process that died has left the request. It may have answered
// it already.
func (r *Request) Replayed() bool { return r.replayed }

// Note makes a record of the beginning of the request and frees the slot. It returns
// false if all records are in use. It does nothing if the request was noted before.
func (r *Request) Note() bool {
	if r.record != noRecord {
		return true
	}
	record, ok := r.journal.note(r.bytes)
	if ok {
		r.record, r.bytes = record, nil
		r.journal.clearSlot()
	}
	return ok
}

// Done forgets the request. It must be called once, after the answer: a request that is
// answered twice does no harm, as the kernel refuses the second answer; one that is not,
// hangs.
func (r *Request) Done() {
	if r.record == noRecord {
		r.journal.clearSlot()
	} else {
		r.journal.strike(r.record)
	}
	r.bytes = nil
}

// Try notes that the request is tried, should the process crash.
func (r *Request) Try() {
	if r.record != noRecord {
		r.journal.records()[r.record].attempts++
	}
}

// Left are the requests that a former process has left.
type Left struct {
	// Ready may be executed at once, in this order. One of them may be in the slot:
	// it must be Noted or Done before the slot is read to.
	Ready []Request
	// Suspects may be what processes crashed of. They are to be tried one at a time.
	Suspects []Request
	// Refused were tried one at a time by a process that crashed.
	Refused []Request
}

// TakeUp returns what a former process has left. crashed says that it died of itself:
// one of the requests may be why. Nobody may have used the Journal before.
func (j *Journal) TakeUp(crashed bool) (left Left) {
	noted := j.left()
	slot := j.pendingSlot()
	for _, r := range noted {
		if bytes.Equal(r.bytes, slot[:min(len(slot), MaxNoted)]) {
			// The process died between noting the request and clearing the slot.
			j.clearSlot()
			slot = nil
		}
		attempts := j.records()[r.record].attempts
		switch {
		case !crashed:
			left.Ready = append(left.Ready, r)
		case attempts >= maxAttempts:
			left.Refused = append(left.Refused, r)
		case attempts > 0:
			left.Suspects = append(left.Suspects, r)
		default:
			r.Try()
			left.Ready = append(left.Ready, r)
		}
	}
	if slot == nil {
		return left
	}
	r := j.Received(len(slot))
	r.replayed = true
	if !crashed {
		left.Ready = append(left.Ready, r)
		return left
	}
	// The reader had it in hand. The slot is for the next reader.
	if !r.Note() {
		left.Refused = append(left.Refused, r)
		return left
	}
	r.bytes = j.noted(r.record)
	r.Try()
	left.Suspects = append(left.Suspects, r)
	return left
}

// slotLength is the length of the request in the slot, 0 if it is free.
func (j *Journal) slotLength() *uint32 { return (*uint32)(unsafe.Pointer(&j.mem[slotOffset])) }

func (j *Journal) clearSlot() { atomic.StoreUint32(j.slotLength(), 0) }

// pendingSlot returns the request in the slot, nil if it is free.
func (j *Journal) pendingSlot() []byte {
	n := atomic.LoadUint32(j.slotLength())
	if n == 0 || n > SlotSize {
		return nil
	}
	return j.Slot()[:n]
}

func (j *Journal) records() []record {
	return unsafe.Slice((*record)(unsafe.Pointer(&j.mem[recordsOffset])), MaxRecords)
}

// note makes a record of a request. ok is false if all are in use.
func (j *Journal) note(request []byte) (i int32, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if last := len(j.unused) - 1; last >= 0 {
		i = j.unused[last]
		j.unused = j.unused[:last]
	} else if j.fresh < MaxRecords {
		i = j.fresh
		j.fresh++
		atomic.StoreUint32(&j.header().records, uint32(j.fresh))
	} else {
		return 0, false
	}
	e := &j.records()[i]
	e.attempts = 0
	copy(e.request[:], request)
	atomic.StoreUint32(&e.length, uint32(len(request)))
	return i, true
}

// noted returns the beginning of the request in the record i.
func (j *Journal) noted(i int32) []byte {
	e := &j.records()[i]
	return e.request[:min(atomic.LoadUint32(&e.length), MaxNoted)]
}

// strike forgets the record i.
func (j *Journal) strike(i int32) {
	atomic.StoreUint32(&j.records()[i].length, 0)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.unused = append(j.unused, i)
}

// left returns the requests in the records, and finds out which are free.
func (j *Journal) left() (left []Request) {
	j.fresh = int32(min(atomic.LoadUint32(&j.header().records), MaxRecords))
	j.unused = nil
	for i := range j.fresh {
		if n := atomic.LoadUint32(&j.records()[i].length); n == 0 || n > SlotSize {
			j.unused = append(j.unused, i)
		} else {
			left = append(left, Request{journal: j, bytes: j.noted(i), record: i, replayed: true})
		}
	}
	return left
}
