// SPDX-License-Identifier: Apache-2.0

package report

import (
	"strings"
	"testing"
)

// TestAContainerIsCalledAsItsRuntimeCallsIt: the groups are those that runtimes make.
func TestAContainerIsCalledAsItsRuntimeCallsIt(t *testing.T) {
	const id, other = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
	for group, want := range map[string]string{
		"/system.slice/docker-" + id + ".scope":            "docker:0123456789ab",
		"/docker/" + id:                                    "docker:0123456789ab",
		"/machine.slice/libpod-" + id + ".scope/container": "podman:0123456789ab",
		"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + id + ".scope/container":                                                "podman:0123456789ab",
		"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1c9f1d7e_5e4b_4f6c_9a3d_2b1a0c9d8e7f.slice/cri-containerd-" + id + ".scope": "pod:1c9f1d7e-5e4b-4f6c-9a3d-2b1a0c9d8e7f/containerd:0123456789ab",
		"/kubepods.slice/kubepods-pod1c9f1d7e_5e4b_4f6c_9a3d_2b1a0c9d8e7f.slice/crio-" + id + ".scope/container":                                    "pod:1c9f1d7e-5e4b-4f6c-9a3d-2b1a0c9d8e7f/crio:0123456789ab",
		"/kubepods/besteffort/pod1c9f1d7e-5e4b-4f6c-9a3d-2b1a0c9d8e7f/" + id:                                                                        "pod:1c9f1d7e-5e4b-4f6c-9a3d-2b1a0c9d8e7f/0123456789ab",
		"/lxc.payload.web": "lxc:web",
		"/lxc.payload.web/system.slice/nginx.service":           "lxc:web/nginx.service",
		"/lxc.payload.web/docker/" + id:                         "lxc:web/docker:0123456789ab",
		"/lxc/web":                                              "lxc:web",
		"/machine.slice/machine-my\\x2dbox.scope/payload":       "machine:my-box",
		"/system.slice/docker-" + id + ".scope/docker/" + other: "docker:0123456789ab/docker:fedcba987654",
		"/system.slice/ssh.service":                             "ssh.service",
		"/machine/ct1":                                          "/machine/ct1",
		"/":                                                     "/",
		"":                                                      "",
	} {
		if got := NameOf(strings.ReplaceAll(group, "\\\\", "\\")); got != want {
			t.Errorf("%s: %q, want %q", group, got, want)
		}
	}
}

// FuzzNameOf: a container may choose the names of its groups.
func FuzzNameOf(f *testing.F) {
	for _, s := range []string{"/", "//", `/a\x2`, `/machine-\x5cx2d.scope`, "/lxc/\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, group string) {
		if NameOf(group) == "" && strings.Trim(group, "/") != "" {
			t.Errorf("%q has no name", group)
		}
	})
}
