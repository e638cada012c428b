// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"
	"reflect"
	"testing"
	"unsafe"

	"vprocfs/procvirt/internal/fixture"
)

// TestNothingOfAnotherRequestIsShown fills all memory that requests reuse with
// garbage before numbers are gathered.
func TestNothingOfAnotherRequestIsShown(t *testing.T) {
	for _, h := range fixture.All(t, "testdata/host") {
		v := fixtureRegistry(t, h, nil)
		for _, role := range []string{"child", "below"} {
			s := subject(t, h, h.Roles[role])
			for _, f := range v.Files() {
				want := renderFile(t, v, f, s)
				c, err := v.Acquire(pidOf(t, v, s), &fakeTurn{})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Release()
				if c.ready(f.needs, c.now) != nil {
					continue // it is the host's file
				}
				n := f.numbers()
				for round := range 3 {
					litter(reflect.ValueOf(n).Elem())
					c.buf, c.host, c.list = rubbish(round*9000), rubbish(round*5000), rubbish(round*100)
					c.groups, c.initGroups = rubbish(round*100), rubbish(round*100)
					got, err := fill(n, nil, c)
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s, %v of %s: %v\n%s\nwant\n%s", h.Name, f, role, err, got, want)
					}
				}
			}
		}
	}
}

func rubbish(n int) []byte { return bytes.Repeat([]byte("7 kB\n"), n/5) }

// litter sets all in v to nonsense, in the capacity of slices too. It leaves
// alone what says whose numbers they are.
func litter(v reflect.Value) {
	if !v.CanSet() {
		v = reflect.NewAt(v.Type(), unsafe.Pointer(v.UnsafeAddr())).Elem()
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			litter(v.Field(i))
		}
	case reflect.Slice:
		if v.Cap() == 0 {
			v.Set(reflect.MakeSlice(v.Type(), 3, 5))
		}
		v.SetLen(v.Cap())
		for i := range v.Len() {
			litter(v.Index(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		litter(v.Elem())
	case reflect.Array:
		for i := range v.Len() {
			litter(v.Index(i))
		}
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1234567)
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		v.SetUint(77)
	case reflect.Uint: // sources
	default:
		panic("no garbage for " + v.Type().String())
	}
}
