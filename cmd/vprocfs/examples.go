// SPDX-License-Identifier: Apache-2.0

package main

import "vprocfs/internal/manual"

// examples returns command lines of a verb, for its help and for the manual page.
func examples(verb string) []manual.Example {
	return map[string][]manual.Example{
		"serve": {
			{Does: "serve the view to all containers of the host", Command: "vprocfs serve --attach all /var/lib/vprocfs"},
			{Does: "show as many CPUs as the cpuset has, and no swap", Command: "vprocfs serve --cpu-view cpuset --swap off /var/lib/vprocfs"},
		},
		"lxcfs": {
			{Does: "serve what LXCFS serves with these options", Command: "vprocfs lxcfs -l --enable-cfs /var/lib/lxcfs"},
			{Does: "the same, by name", Command: "ln -s vprocfs /usr/local/bin/lxcfs && lxcfs -l /var/lib/lxcfs"},
		},
		"upgrade": {
			{Does: "run the binary that was installed over the old one", Command: "vprocfs upgrade /var/lib/vprocfs"},
			{Does: "the same under systemd", Command: "systemctl reload vprocfs"},
		},
		"unmount": {
			{Does: "end what a daemon has left that was stopped with --keep-mount", Command: "vprocfs unmount /var/lib/vprocfs"},
			{Does: "the same, as the unit does it after a stop", Command: "vprocfs unmount --unless-restarting vprocfs.service /var/lib/vprocfs"},
		},
		"run": {
			{Does: "a container with 256 MiB and one CPU", Command: "vprocfs run --memory 256M --cpus 1 -- free -m"},
			{Does: "a shell that has the files of the daemon that runs", Command: "vprocfs run --mount /var/lib/vprocfs --cpuset 0-1 -- bash"},
		},
		"status": {
			{Does: "whether the daemon is well, for a health check", Command: "vprocfs status >/dev/null || echo not well"},
			{Does: "the same for a program", Command: "vprocfs status --json --mount /var/lib/lxcfs"},
		},
		"ps": {
			{Does: "which container reads most", Command: "vprocfs ps"},
			{Does: "the containers of Docker, those with most memory first", Command: "vprocfs ps --filter docker: --sort memory"},
		},
		"top": {
			{Does: "who reads most, live", Command: "vprocfs top"},
			{Does: "once, in a pipe: what the first container of a pod reads, by file", Command: "vprocfs top --batch -n 1 --filter pod:1c9f1d7e --detail | cat"},
		},
		"export": {
			{Does: "answer scrapes at http://127.0.0.1:9891/metrics", Command: "vprocfs export"},
			{Does: "with metrics of the ten containers that read most", Command: "vprocfs export --listen 127.0.0.1:9891 --per-container 10"},
		},
		"log-level": {
			{Does: "say more", Command: "vprocfs log-level debug"},
			{Does: "say what it said before", Command: "vprocfs log-level info"},
		},
		"explain": {
			{Does: "where the numbers of a process's container come from", Command: "vprocfs explain --pid 12345"},
			{Does: "the same for a program", Command: "vprocfs explain --pid 12345 --json"},
		},
		"set": {
			{Does: "show as many CPUs as a pod requests, and no swap", Command: "vprocfs set --pid 12345 cpu=request swap=off"},
			{Does: "leave all containers of a cgroup alone", Command: "vprocfs set --cgroup /sys/fs/cgroup/system.slice/foo.service view=off"},
		},
		"get": {
			{Does: "the policy of a container", Command: "vprocfs get --pid 12345"},
			{Does: "that of a cgroup, for a program", Command: "vprocfs get --cgroup /sys/fs/cgroup/system.slice/foo.service --json"},
		},
		"unset": {
			{Does: "remove one word", Command: "vprocfs unset --pid 12345 swap"},
			{Does: "remove the whole policy", Command: "vprocfs unset --pid 12345"},
		},
		"attach": {
			{Does: "all files, in the container of a process", Command: "vprocfs attach --pid 12345"},
			{Does: "two files, in place of those of LXCFS", Command: "vprocfs attach --pid 12345 --file meminfo --file uptime --replace"},
		},
		"heal": {
			{Does: "replace what dead daemons have left", Command: "vprocfs heal"},
			{Does: "only say what would be done", Command: "vprocfs heal --dry-run --mount /var/lib/lxcfs"},
		},
		"hook": {
			{Does: "as a runtime calls it", Command: "runc state web | vprocfs hook"},
			{Does: "with the daemon at another mount point", Command: "runc state web | vprocfs hook --mount /var/lib/lxcfs"},
		},
		"runtime": {
			{Does: "crun, and the view", Command: "vprocfs runtime --runtime crun -- run web"},
			{Does: "the same, by name", Command: "ln -s vprocfs /usr/bin/vprocfs-crun && vprocfs-crun run web"},
		},
		"node": {
			{Does: "as a pod runs it, with the host's root directory at /host", Command: "vprocfs node install"},
			{Does: "the same, with the NRI plugin and flags for the daemon", Command: "vprocfs node --nri --serve-flags '--cpu-view cpuset' install"},
		},
		"version": {
			{Does: "what a report of a defect should have", Command: "vprocfs version"},
			{Does: "the same", Command: "vprocfs --version"},
		},
	}[verb]
}
