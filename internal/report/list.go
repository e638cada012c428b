// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"vprocfs/internal/control"
	"vprocfs/procvirt"
)

// Container is a container with its name.
type Container struct {
	Name string `json:"name"`
	procvirt.ContainerInfo
}

// Containers returns the containers that the daemon knows.
func (d *Daemon) Containers() ([]Container, error) {
	return d.containers("")
}

// Counters is Containers without what they are shown. It costs the daemon less.
func (d *Daemon) Counters() ([]Container, error) { return d.containers(control.CountersOnly) }

func (d *Daemon) containers(arg string) ([]Container, error) {
	infos, err := ask[[]procvirt.ContainerInfo](d, control.Containers, arg)
	if err != nil {
		return nil, err
	}
	all := make([]Container, len(infos))
	for i, info := range infos {
		all[i] = Container{NameOf(info.Group), info}
		if info.Host {
			all[i].Name = "host:" + all[i].Name
		}
	}
	return all, nil
}

// column is a column of the list.
type column struct {
	title string
	text  func(c *Container) string
	// compare sorts those first that an operator looks for.
	compare func(a, b *Container) int
	left    bool // aligned to the left
	// keep says how long it stays if the terminal is narrow: the least goes first.
	keep int
}

func more[T cmp.Ordered](get func(c *Container) T) func(a, b *Container) int {
	return func(a, b *Container) int { return cmp.Compare(get(b), get(a)) }
}

// columns are the columns in their order.
func columns() []column {
	return []column{
		{"NAME", func(c *Container) string { return Printable(c.Name) }, func(a, b *Container) int { return cmp.Compare(a.Name, b.Name) }, true, 10},
		{"INIT", func(c *Container) string { return strconv.Itoa(c.Init) }, func(a, b *Container) int { return cmp.Compare(a.Init, b.Init) }, false, 8},
		{"CPUS", func(c *Container) string { return orDash(c.CPUs > 0, strconv.Itoa(c.CPUs)) }, more(func(c *Container) int { return c.CPUs }), false, 7},
		{"MEMORY", func(c *Container) string { return orDash(c.Memory > 0, bytesText(c.Memory)) }, more(func(c *Container) uint64 { return c.Memory }), false, 7},
		{"LOAD", func(c *Container) string { return orDash(c.Load != "", firstWord(c.Load)) }, more(loadOf), false, 4},
		{"UPTIME", func(c *Container) string { return orDash(c.Uptime > 0, age(seconds(c.Uptime))) }, more(func(c *Container) float64 { return c.Uptime }), false, 6},
		{"READS/S", func(c *Container) string { return strconv.FormatFloat(c.PerSecond, 'f', 0, 64) }, more(func(c *Container) float64 { return c.PerSecond }), false, 9},
		{"READS", func(c *Container) string { return strconv.FormatUint(c.Reads, 10) }, more(func(c *Container) uint64 { return c.Reads }), false, 3},
		{"SLOW", func(c *Container) string { return strconv.FormatUint(c.Slow, 10) }, more(func(c *Container) uint64 { return c.Slow }), false, 5},
		{"DELAYED", func(c *Container) string { return strconv.FormatUint(c.Delayed, 10) }, more(func(c *Container) uint64 { return c.Delayed }), false, 4},
		{"FILES", func(c *Container) string { return strconv.Itoa(c.OpenFiles) }, more(func(c *Container) int { return c.OpenFiles }), false, 2},
		{"FALLBACKS", func(c *Container) string { return strconv.FormatUint(c.Fallbacks, 10) }, more(func(c *Container) uint64 { return c.Fallbacks }), false, 5},
		{"POLICY", policyText, func(a, b *Container) int { return cmp.Compare(policyText(a), policyText(b)) }, true, 1},
	}
}

func orDash(ok bool, text string) string {
	if !ok {
		return "-"
	}
	return text
}

func firstWord(s string) string {
	word, _, _ := strings.Cut(s, " ")
	return word
}

func loadOf(c *Container) float64 {
	load, _ := strconv.ParseFloat(firstWord(c.Load), 64)
	return load
}

func policyText(c *Container) string {
	var words []string
	for _, w := range c.Policy {
		words = append(words, w.Key+"="+w.Value)
	}
	return Printable(orDash(len(words) > 0, strings.Join(words, " ")))
}

// ListOptions say what of the list is shown.
type ListOptions struct {
	JSON    bool
	Sort    string // a column in lower case
	Reverse bool
	Filter  string
}

// SortColumns returns the values of ListOptions.Sort.
func SortColumns() string {
	var names []string
	for _, c := range columns() {
		names = append(names, strings.ToLower(c.title))
	}
	return strings.Join(names, ", ")
}

// Check returns an error if there is no column to sort by.
func (o *ListOptions) Check() error {
	if o.column() < 0 {
		return fmt.Errorf("invalid argument %q for --sort: must be one of %s", o.Sort, SortColumns())
	}
	return nil
}

func (o *ListOptions) column() int {
	return slices.IndexFunc(columns(), func(c column) bool { return strings.EqualFold(c.title, o.Sort) })
}

// List prints the containers to w: as wide as that is if it is a terminal, else in full.
func (d *Daemon) List(w io.Writer, o ListOptions) error {
	all, err := d.Containers()
	if err != nil {
		return err
	}
	all = o.choose(all)
	if o.JSON {
		return JSON(w, all)
	}
	_, err = io.WriteString(w, strings.Join(table(all, widthOf(w)), "\n")+"\n")
	return err
}

// choose filters and sorts.
func (o *ListOptions) choose(all []Container) []Container {
	all = slices.DeleteFunc(all, func(c Container) bool {
		return !strings.Contains(c.Name, o.Filter) && !strings.Contains(c.Group, o.Filter)
	})
	compare := columns()[max(o.column(), 0)].compare
	slices.SortStableFunc(all, func(a, b Container) int {
		n := compare(&a, &b)
		if o.Reverse {
			n = -n
		}
		return cmp.Or(n, cmp.Compare(a.Name, b.Name), cmp.Compare(a.Init, b.Init))
	})
	return all
}

// widthOf returns the width of the terminal that w is, 0 if it is none.
func widthOf(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}

// minName is the least width of a name that is cut.
const minName = 16

// table returns the lines of the list, which are width wide at most; 0 is as wide as they
// are. In a narrow terminal columns are left out, and names are cut in the middle.
func table(all []Container, width int) []string {
	cols := columns()
	cells := make([][]string, len(cols))
	widths := make([]int, len(cols))
	for i, c := range cols {
		cells[i] = append(cells[i], c.title)
		for j := range all {
			cells[i] = append(cells[i], c.text(&all[j]))
		}
		for _, text := range cells[i] {
			widths[i] = max(widths[i], utf8.RuneCountInString(text))
		}
	}
	shown := fit(cols, widths, width)
	lines := make([]string, len(all)+1)
	for row := range lines {
		var line strings.Builder
		for n, i := range shown {
			if n > 0 {
				line.WriteString("  ")
			}
			text := cut(cells[i][row], widths[i])
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text))
			if cols[i].left {
				line.WriteString(text + pad)
			} else {
				line.WriteString(pad + text)
			}
		}
		lines[row] = strings.TrimRight(line.String(), " ")
	}
	return lines
}

// fit returns the columns that have room, and makes the first one, the name, narrower.
func fit(cols []column, widths []int, width int) (shown []int) {
	for i := range cols {
		shown = append(shown, i)
	}
	total := func() (n int) {
		for _, i := range shown {
			n += widths[i] + 2
		}
		return n - 2
	}
	for width > 0 && total()-max(widths[0]-minName, 0) > width && len(shown) > 1 {
		least := slices.MinFunc(shown, func(a, b int) int { return cmp.Compare(cols[a].keep, cols[b].keep) })
		shown = slices.DeleteFunc(shown, func(i int) bool { return i == least })
	}
	if width > 0 && total() > width {
		widths[0] = max(widths[0]-(total()-width), min(minName, width))
	}
	return shown
}

// cut shortens a text in its middle.
func cut(text string, width int) string {
	runes := []rune(text)
	if len(runes) <= width {
		return text
	}
	if width < 3 {
		return string(runes[:width])
	}
	head := (width - 1) / 2
	return string(runes[:head]) + "~" + string(runes[len(runes)-(width-1-head):])
}
