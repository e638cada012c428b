// SPDX-License-Identifier: Apache-2.0

// Command image writes an OCI image of vprocfs as a tar archive, without a container
// engine: `make image`. The same files make the same bytes.
//
//	go run ./deploy/image -binary build/vprocfs -nri build/vprocfs-nri -version 0.1.0 -output build/image/vprocfs.tar
package main

import (
	"debug/elf"
	"flag"
	"fmt"
	"os"
	"strconv"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	fl := flag.NewFlagSet("image", flag.ExitOnError)
	binary := fl.String("binary", "build/vprocfs", "static `FILE` to put in the image")
	plugin := fl.String("nri", "", "static `FILE` of the NRI plugin, if it is to be in the image")
	version := fl.String("version", "0.1.0", "version and tag of the image")
	output := fl.String("output", "build/image/vprocfs.tar", "`FILE` to write")
	if err := fl.Parse(args); err != nil {
		return err
	}
	arch, err := architecture(*binary)
	if err != nil {
		return err
	}
	if *plugin != "" {
		switch other, err := architecture(*plugin); {
		case err != nil:
			return err
		case other != arch:
			return fmt.Errorf("%s is for %s, and %s for %s", *binary, arch, *plugin, other)
		}
	}
	created, err := epoch(os.Getenv("SOURCE_DATE_EPOCH"))
	if err != nil {
		return err
	}
	files, err := load(contents(*binary, *plugin))
	if err != nil {
		return err
	}
	archive, err := build(files, image{arch: arch, version: *version, created: created})
	if err != nil {
		return err
	}
	return os.WriteFile(*output, archive, 0o644)
}

// epoch returns the time that all files of the image have: that of SOURCE_DATE_EPOCH, in
// seconds since 1970 (reproducible-builds.org), or 1970 if it is empty.
func epoch(text string) (time.Time, error) {
	if text == "" {
		return time.Unix(0, 0).UTC(), nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// architecture returns the architecture that a program is built for, by Go's name. It
// returns an error for a program that needs a dynamic linker, which the image has not.
func architecture(binary string) (string, error) {
	f, err := elf.Open(binary)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // read only
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", fmt.Errorf("%s is not static: build it with CGO_ENABLED=0", binary)
		}
	}
	names := map[elf.Machine]string{
		elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64", elf.EM_S390: "s390x", elf.EM_RISCV: "riscv64", elf.EM_PPC64: "ppc64le",
	}
	name, ok := names[f.Machine]
	if !ok {
		return "", fmt.Errorf("%s: unknown architecture %v", binary, f.Machine)
	}
	return name, nil
}
