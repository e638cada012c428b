// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"vprocfs/procvirt/cgroup"
)

// PolicyWord is a word of a policy that holds for a container.
type PolicyWord struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	// Dir is the directory of the control group that has it.
	Dir string `json:"cgroup"`
}

// ErrNoGroup says that a process is in no control group that can have a policy.
var ErrNoGroup = errors.New("the process is in the root control group, which has no policy: the daemon's options hold")

// PolicyDirs returns the directories of the control groups that the policy of thread
// pid's container may be on, nearest first.
func (r *Registry) PolicyDirs(pid int) ([]string, error) {
	c, err := r.acquire(pid, patient{})
	if err != nil {
		return nil, err
	}
	defer c.Release()
	return dirsOf(c.policyPlace())
}

// PolicyDirsOf is PolicyDirs for the containers in the control group with the directory
// dir.
func (r *Registry) PolicyDirsOf(dir string) ([]string, error) {
	p, err := r.mounts.PolicyPlace(dir)
	if err != nil {
		return nil, err
	}
	return dirsOf(p)
}

func dirsOf(p cgroup.Place) ([]string, error) {
	if p.Root || len(p.Dirs) == 0 {
		return nil, ErrNoGroup
	}
	return p.Dirs, nil
}

// Policy returns the words that hold for a container whose policy is on dirs, nearest
// first, and those that are not known.
func (r *Registry) Policy(dirs []string) (words []PolicyWord, unknown []string, err error) {
	var raw []byte
	for _, dir := range dirs {
		text, err := cgroup.ReadPolicy(dir)
		if err != nil {
			return nil, nil, err
		}
		raw = append(append(raw, text...), cgroup.PolicyEnd)
	}
	p := parsePolicy(raw, r.files)
	return p.list(dirs), p.unknown, nil
}

// list returns the words of p, whose levels are dirs.
func (p *policy) list(dirs []string) (words []PolicyWord) {
	for key, s := range p.words {
		if s.set && s.level < len(dirs) { // they may be those of other groups by now
			words = append(words, PolicyWord{wordNames[key], s.text, dirs[s.level]})
		}
	}
	return words
}

// SetPolicy sets words, each KEY=VALUE, in the policy of the control group with the
// directory dir. Other words stay.
func (r *Registry) SetPolicy(dir string, words []string) error {
	for _, w := range words {
		if err := r.checkWord(w); err != nil {
			return err
		}
	}
	return editPolicy(dir, func(text string) string { return setWords(text, words) })
}

// UnsetPolicy removes the words with the given keys from the policy of the control group
// with the directory dir, and all if there are none.
func (r *Registry) UnsetPolicy(dir string, keys []string) error {
	for _, k := range keys {
		if !slices.Contains(wordNames[:], k) {
			return fmt.Errorf("unknown word %q: the words are %s", k, strings.Join(wordNames[:], ", "))
		}
	}
	return editPolicy(dir, func(text string) string {
		if len(keys) == 0 {
			return ""
		}
		return unsetWords(text, keys)
	})
}

func editPolicy(dir string, edit func(string) string) error {
	text, err := cgroup.ReadPolicy(dir)
	if err != nil {
		return err
	}
	return cgroup.WritePolicy(dir, edit(text))
}

// checkWord returns an error that says what is wrong with a word.
func (r *Registry) checkWord(w string) error {
	key, value, ok := splitWord(w)
	switch {
	case !ok:
		return fmt.Errorf("unknown word %q: the words are %s, each with a value", w, strings.Join(wordNames[:], ", "))
	case strings.ContainsAny(value, " \t\n\x00"):
		return fmt.Errorf("invalid value %q of %s: it has blanks", value, wordNames[key])
	case key != wordFiles && !slices.Contains(wordValues[key], value):
		return fmt.Errorf("invalid value %q of %s: must be %s", value, wordNames[key], strings.Join(wordValues[key], ", "))
	case key != wordFiles:
		return nil
	}
	if _, unknown := hiddenFiles(value, r.files); len(unknown) > 0 {
		var names []string
		for i := range r.files {
			names = append(names, r.files[i].String())
		}
		return fmt.Errorf("no such file: %s; the files are %s", strings.Join(unknown, ", "), strings.Join(names, ", "))
	}
	return nil
}

// setWords returns text with words in the place of those with the same keys. Of two words
// with one key the last counts.
func setWords(text string, words []string) string {
	for _, w := range words {
		key, _, _ := strings.Cut(w, "=")
		text = unsetWords(text, []string{key}) + " " + w
	}
	all := strings.Fields(text)
	slices.SortStableFunc(all, func(a, b string) int { return rank(a) - rank(b) })
	return strings.Join(all, " ")
}

// rank is where a word is written.
func rank(w string) int {
	if key, _, ok := splitWord(w); ok {
		return int(key)
	}
	return int(numWords)
}

// unsetWords returns text without the words of the given keys.
func unsetWords(text string, keys []string) string {
	words := slices.DeleteFunc(strings.Fields(text), func(w string) bool {
		key, _, _ := strings.Cut(w, "=")
		return slices.Contains(keys, key)
	})
	return strings.Join(words, " ")
}
