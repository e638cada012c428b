// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
)

// fakeSystemd answers as systemd does on its own socket. What a unit is made of is all the
// same to it.
type fakeSystemd struct {
	t    *testing.T
	host string

	mu     sync.Mutex
	calls  []string          // "METHOD UNIT", without those that only look
	active map[string]bool   // units that run
	result map[string]string // of the next job by call, if it is not "done"; empty: it does not end
	jobs   uint32
}

// setResult sets how the next job ends that a call makes.
func (f *fakeSystemd) setResult(call, result string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.result[call] = result
}

// setInactive has a unit not run.
func (f *fakeSystemd) setInactive(unit string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.active[unit] = false
}

// startSystemd makes the socket below the directory.
func startSystemd(t *testing.T, host string) *fakeSystemd {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(host, "run/systemd/system"), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(host, "run/systemd/private"))
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeSystemd{t: t, host: host, active: make(map[string]bool), result: make(map[string]string)}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				if err := f.serve(c); err != nil && !errors.Is(err, io.EOF) {
					t.Errorf("fake systemd: %v", err)
				}
			})
		}
	})
	return f
}

// took returns the calls since the last time.
func (f *fakeSystemd) took() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}

// serve answers a client.
func (f *fakeSystemd) serve(c net.Conn) error {
	in := bufio.NewReader(c)
	if _, err := in.Discard(1); err != nil { // the byte that carries the credentials
		return err
	}
	for begun := false; !begun; {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		answer := "ERROR"
		switch words := strings.Fields(line); {
		case words[0] == "BEGIN":
			begun = true
			continue
		case words[0] == "AUTH" && len(words) == 1:
			answer = "REJECTED EXTERNAL"
		case words[0] == "AUTH":
			answer = "DATA"
		case words[0] == "DATA":
			answer = "OK 0123456789abcdef0123456789abcdef"
		}
		if _, err := io.WriteString(c, answer+"\r\n"); err != nil {
			return err
		}
	}
	for {
		m, err := dbus.DecodeMessage(in)
		if err != nil {
			return err
		}
		for _, reply := range f.answer(m) {
			reply.Headers[dbus.FieldDestination] = dbus.MakeVariant(":1.1")
			if len(reply.Body) > 0 {
				reply.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(reply.Body...))
			}
			if err := reply.EncodeTo(c, binary.LittleEndian); err != nil {
				return err
			}
		}
	}
}

// answer returns the messages that a call is answered with.
func (f *fakeSystemd) answer(m *dbus.Message) []*dbus.Message {
	f.mu.Lock()
	defer f.mu.Unlock()
	reply := func(body ...any) *dbus.Message {
		return &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldReplySerial: dbus.MakeVariant(m.Serial()),
		}, Body: body}
	}
	method, _ := m.Headers[dbus.FieldMember].Value().(string)
	unitName := ""
	if len(m.Body) > 0 {
		switch v := m.Body[0].(type) {
		case string:
			unitName = v
		case []string:
			unitName = strings.Join(v, " ")
		}
	}
	call := strings.TrimSpace(method + " " + unitName)
	switch method {
	case "LoadUnit":
		return []*dbus.Message{reply(dbus.ObjectPath("/unit/" + strings.NewReplacer(".", "_", "-", "_").Replace(unitName)))}
	case "Get":
		path, _ := m.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
		state := "inactive"
		for u, active := range f.active {
			if active && strings.HasSuffix(string(path), "/"+strings.NewReplacer(".", "_", "-", "_").Replace(u)) {
				state = "active"
			}
		}
		return []*dbus.Message{reply(dbus.MakeVariant(state))}
	}
	f.calls = append(f.calls, call)
	if !strings.HasSuffix(method, "Unit") || method == "CleanUnit" || method == "ResetFailedUnit" {
		return []*dbus.Message{reply()}
	}
	f.jobs++
	job := dbus.ObjectPath("/job/" + strings.Repeat("1", int(f.jobs)))
	result := "done"
	if r, ok := f.result[call]; ok {
		result = r
		delete(f.result, call)
	} else {
		f.active[unitName] = method != "StopUnit"
	}
	removed := func(job dbus.ObjectPath, result string) *dbus.Message {
		return &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldPath:      dbus.MakeVariant(managerPath),
			dbus.FieldInterface: dbus.MakeVariant(managerName),
			dbus.FieldMember:    dbus.MakeVariant("JobRemoved"),
		}, Body: []any{f.jobs, job, unitName, result}}
	}
	// Another's job fails meanwhile. A job may have ended when the answer comes.
	messages := []*dbus.Message{removed("/job/other", "failed"), reply(job), removed(job, result)}
	if result == "" {
		return messages[:2]
	}
	if f.jobs%2 == 0 {
		slices.Reverse(messages[1:])
	}
	return messages
}
