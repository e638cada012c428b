package daemon

import (
	"encoding/binary"
	"encoding/json"
	"log/slog"
	"sync"

	"vprocfs/fs"
	"vprocfs/internal/shm"
	"vprocfs/procvirt/psi"
)

// triggerFormat is that of the table of triggers, whose records are psi.Record as
// JSON.
func triggerFormat() shm.Format {
	return shm.Format{Version: 1, Payload: 8192, Slots: 2 * psi.MaxTriggers}
}

// keptTriggers are the triggers, so that the next worker can make them again. It
// is safe for concurrent use. The methods of nil do nothing.
type keptTriggers struct {
	table *shm.Table

	mu      sync.Mutex
	records map[uint64]*keptTrigger // by handle
}

// keptTrigger is one of them.
type keptTrigger struct {
	psi.Record
	kept *shm.Record
}

func newKeptTriggers(t *shm.Table) *keptTriggers {
	return &keptTriggers{table: t, records: make(map[uint64]*keptTrigger)}
}

func triggerKey(handle uint64) (k shm.Key) {
	binary.NativeEndian.PutUint64(k[:], handle)
	return k
}

// add keeps a trigger.
func (k *keptTriggers) add(r psi.Record) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	t := &keptTrigger{r, k.table.Get(triggerKey(r.Handle), shm.Owner{})}
	k.records[r.Handle] = t
	t.store()
}

// store writes t down. The caller holds mu.
func (t *keptTrigger) store() {
	b, err := json.Marshal(t.Record)
	if err != nil || t.kept == nil {
		return // it cannot be, or there are too many: it ends with this process
	}
	t.kept.Commit(append(t.kept.Buffer(), b...))
}

// waits notes who waits for the next event.
func (k *keptTriggers) waits(handle, waiter uint64) {
	if k == nil || waiter == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if t := k.records[handle]; t != nil && t.Waiter != waiter {
		t.Waiter = waiter
		t.store()
	}
}

// remove forgets a trigger.
func (k *keptTriggers) remove(handle uint64) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if t := k.records[handle]; t != nil {
		delete(k.records, handle)
		t.kept.Free()
	}
}

// restore makes the triggers of a former process again, and wakes who waits for
// them: an event may have been lost.
func (k *keptTriggers) restore(table *psi.Table, conn *fs.Conn, log *slog.Logger) {
	var all []psi.Record
	k.table.Each(func(_ shm.Key, b []byte) {
		var r psi.Record
		if json.Unmarshal(b, &r) == nil {
			all = append(all, r)
		}
	})
	for _, r := range all {
		k.add(r)
		// Who waits for one that cannot be made is told of an error, as where the
		// group has been removed.
		if err := table.Set(r, func() error { return nil }); err != nil {
			log.Warn("a trigger is lost", "file", r.File, "err", err)
		}
		if r.Waiter != 0 {
			if err := conn.Wake(r.Waiter); err != nil {
				log.Warn("nobody is told of an event", "err", err)
			}
		}
	}
}
