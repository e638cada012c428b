// SPDX-License-Identifier: Apache-2.0

package initpid

import (
	"os"
	"testing"
)

// TestLookUpsAreCountedByMethod: each answer counts once, and a failure counts as one.
func TestLookUpsAreCountedByMethod(t *testing.T) {
	r, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 3 {
		if _, err := r.Resolve(os.Getpid()); err != nil {
			t.Fatal(err)
		}
	}
	if s := r.Stats(); s.Found["host"] != 3 || len(s.Found) != 1 || len(s.Failed) != 0 || s.Method == "" || s.Kept != 0 {
		t.Errorf("%+v", s)
	}
}
