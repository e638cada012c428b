// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// requestTimeouts returns a warning for each sysctl that makes the kernel abort a
// connection before maxOutage has passed (Linux 6.15, seconds, 0 is never;
// Documentation/admin-guide/sysctl/fs.rst). root is "/" except in tests.
func requestTimeouts(root string, maxOutage time.Duration) []string {
	var warnings []string
	for _, name := range []string{"default_request_timeout", "max_request_timeout"} {
		text, err := os.ReadFile(filepath.Join(root, "proc/sys/fs/fuse", name))
		if err != nil {
			continue // an older kernel
		}
		seconds, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
		if timeout := time.Duration(seconds) * time.Second; err == nil && timeout > 0 && timeout < maxOutage {
			warnings = append(warnings, fmt.Sprintf("fs.fuse.%s is %s, less than --max-outage, which is %s: the kernel aborts the connection first", name, timeout, maxOutage))
		}
	}
	return warnings
}
