// SPDX-License-Identifier: Apache-2.0

package seccomp_test

import (
	"os"
	"testing"

	"vprocfs/internal/seccomp/seccomptest"
)

func TestMain(m *testing.M) {
	seccomptest.Main()
	os.Exit(m.Run())
}
