// SPDX-License-Identifier: Apache-2.0

package watch

import "testing"

// v1 is the text of a /proc/PID/cgroup on a host with v1 hierarchies and systemd.
func v1(dir string) string {
	return "12:memory:" + dir + "\n4:cpu,cpuacct:" + dir + "\n1:name=systemd:" + dir + "\n0::/\n"
}

func v2(dir string) string { return "0::" + dir + "\n" }

// TestContainersAreToldFromSandboxesAndServices has the cgroups that each program
// was seen to use.
func TestContainersAreToldFromSandboxesAndServices(t *testing.T) {
	full := facts{ownPIDNS: true, ownMounts: true, ownProcfs: true}
	hostPIDs := facts{ownMounts: true, ownProcfs: true}
	for _, tt := range []struct {
		name           string
		facts          facts
		cgroup, parent string
		want           verdict
	}{
		{"docker, systemd driver", full, v2("/system.slice/docker-1f3a.scope"), v2("/system.slice/containerd.service"), ready},
		{"docker, v1, cgroupfs driver", full, v1("/docker/1f3a"), v1("/system.slice/containerd.service"), ready},
		{"only one v1 hierarchy differs", full, "2:memory:/docker/1f3a\n1:name=systemd:/\n", "2:memory:/\n1:name=systemd:/\n", ready},
		{"podman in a service", full, v2("/system.slice/web.service/libpod-payload-77"), v2("/system.slice/web.service/runtime"), ready},
		{"kubernetes", full, v2("/kubepods.slice/kubepods-pod1.slice/cri-containerd-2.scope"), v2("/system.slice/containerd.service"), ready},
		{"lxc", full, v2("/lxc.payload.web"), v2("/lxc.monitor.web"), ready},
		{"lxc whose init is systemd", full, v2("/lxc.payload.web/init.scope"), v2("/lxc.monitor.web"), ready},
		{"nspawn", full, v2("/machine.slice/systemd-nspawn@a.service/payload"), v2("/machine.slice/systemd-nspawn@a.service/supervisor"), ready},
		{"nspawn before it is moved", full, v2("/machine.slice/systemd-nspawn@a.service"), v2("/machine.slice/machine-a.scope"), notYet},
		{"docker in docker", full, v2("/system.slice/docker-1.scope/docker/2"), v2("/system.slice/docker-1.scope"), ready},

		{"bubblewrap", full, v2("/user.slice/user-1000.slice/app-flatpak.scope"), v2("/user.slice/user-1000.slice/app-flatpak.scope"), notYet},
		{"unshare", full, v1("/user.slice"), v1("/user.slice"), notYet},
		{"service of systemd", hostPIDs, v2("/system.slice/nginx.service"), v2("/init.scope"), never},
		{"service with PrivatePIDs=", full, v2("/system.slice/nginx.service"), v2("/init.scope"), notYet},
		{"service with PrivatePIDs=, v1", full, v1("/system.slice/nginx.service"), v1("/init.scope"), notYet},
		{"container with the host's pid namespace", hostPIDs, v2("/system.slice/docker-1f3a.scope"), v2("/system.slice/containerd.service"), never},
		{"parent not visible", full, v2("/docker/1"), "", never},

		{"before the mount namespace is made", facts{ownPIDNS: true}, v2("/docker/1"), v2("/"), notYet},
		{"before /proc is mounted", facts{ownPIDNS: true, ownMounts: true}, v2("/docker/1"), v2("/"), notYet},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := tt.facts
			f.cgroups, f.parentCgroups = []byte(tt.cgroup), []byte(tt.parent)
			if got := (&Rules{}).judge(&f); got != tt.want {
				t.Errorf("judged %d, want %d", got, tt.want)
			}
		})
	}
}

func TestPatternsOverride(t *testing.T) {
	rules := &Rules{Attach: []string{"/docker/*", "/desktop"}, Never: []string{"/docker/bad*", "/*/lxc.payload.*"}}
	for _, tt := range []struct {
		name           string
		facts          facts
		cgroup, parent string
		want           verdict
	}{
		{"the host's pid namespace", facts{ownMounts: true, ownProcfs: true}, v1("/docker/1"), v1("/"), ready},
		{"a cgroup below", facts{ownMounts: true, ownProcfs: true}, v2("/docker/1/sub/sub"), v2("/"), ready},
		{"the cgroup of the parent", facts{ownPIDNS: true, ownMounts: true, ownProcfs: true}, v2("/desktop"), v2("/desktop"), ready},
		{"no mount namespace", facts{ownPIDNS: true}, v2("/docker/1"), v2("/"), notYet},
		{"the parent of what matches", facts{ownMounts: true, ownProcfs: true}, v2("/docker"), v2("/"), never},
		{"both", facts{ownPIDNS: true, ownMounts: true, ownProcfs: true}, v2("/docker/bad1"), v2("/"), never},
		{"below one that is excluded", facts{ownPIDNS: true, ownMounts: true, ownProcfs: true}, v2("/a/lxc.payload.b/init.scope"), v2("/"), never},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := tt.facts
			f.cgroups, f.parentCgroups = []byte(tt.cgroup), []byte(tt.parent)
			if got := rules.judge(&f); got != tt.want {
				t.Errorf("judged %d, want %d", got, tt.want)
			}
		})
	}
}

func TestPatternsAreChecked(t *testing.T) {
	for _, good := range []string{"/", "/docker", "/docker/*", "/a/[bc]?"} {
		if err := CheckPattern(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "docker", "/docker/", "/a//b", "/[a"} {
		if CheckPattern(bad) == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
