// SPDX-License-Identifier: Apache-2.0

package main

import (
	"maps"
	"slices"
	"strings"

	"github.com/containerd/nri/pkg/api"
)

// prefix is what the names of the annotations begin with. The rest is a word of a policy:
// vprocfs.io/cpu. In a pod's annotations the name of a container may follow, for that one
// alone: vprocfs.io/cpu.web.
const prefix = "vprocfs.io/"

// policyWords returns the words of the policy that the annotations of a pod and its
// container set, each KEY=VALUE, by their keys. Of several annotations with one key, that
// of the pod for this container counts most, then that of the container, then that of the
// pod. Nothing is checked here.
func policyWords(pod *api.PodSandbox, c *api.Container) (words []string) {
	values := make(map[string]string)
	var own []string // keys of the pod's annotations for this container
	for name, value := range pod.GetAnnotations() {
		rest, ok := strings.CutPrefix(name, prefix)
		key, container, named := strings.Cut(rest, ".")
		switch {
		case !ok || named && container != c.GetName():
		case named:
			values[key] = value
			own = append(own, key)
		case !slices.Contains(own, key):
			values[key] = value
		}
	}
	for name, value := range c.GetAnnotations() {
		if key, ok := strings.CutPrefix(name, prefix); ok && !slices.Contains(own, key) && !strings.Contains(key, ".") {
			values[key] = value
		}
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		words = append(words, key+"="+values[key])
	}
	return words
}
