// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// file is a file of the image. With link it is a symbolic link.
type file struct {
	name string // without a leading slash
	from string // where load reads it
	mode int64
	link string
	data []byte
}

// contents are the files of the image: what the package has, but for its documentation, and
// the NRI plugin, if its path is not empty.
func contents(binary, plugin string) []file {
	files := []file{
		{name: "usr/bin/vprocfs", from: binary, mode: 0o755},
		{name: "usr/bin/vprocfs-runc", link: "vprocfs"},
		{name: "usr/bin/vprocfs-crun", link: "vprocfs"},
		{name: "usr/lib/systemd/system/vprocfs.service", from: "deploy/systemd/vprocfs.service", mode: 0o644},
		{name: "usr/share/vprocfs/hooks.d/vprocfs.json", from: "deploy/hooks.d/vprocfs.json", mode: 0o644},
		{name: "usr/share/vprocfs/cdi/vprocfs.json", from: "deploy/cdi/vprocfs.json", mode: 0o644},
	}
	if plugin != "" {
		files = append(files,
			file{name: "usr/bin/vprocfs-nri", from: plugin, mode: 0o755},
			file{name: "usr/lib/systemd/system/vprocfs-nri.service", from: "deploy/nri/vprocfs-nri.service", mode: 0o644})
	}
	return files
}

// load reads the files.
func load(files []file) ([]file, error) {
	for i, f := range files {
		if f.link != "" {
			continue
		}
		var err error
		if files[i].data, err = os.ReadFile(f.from); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// image describes the image beside its files.
type image struct {
	arch    string
	version string
	created time.Time
}

// Media types of the OCI image specification 1.1.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// descriptor refers to a blob (OCI image specification, descriptor.md).
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// manifest is an image manifest (manifest.md) or an index (image-index.md).
type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        *descriptor  `json:"config,omitempty"`
	Layers        []descriptor `json:"layers,omitempty"`
	Manifests     []descriptor `json:"manifests,omitempty"`
}

// configuration is the configuration of an image (config.md).
type configuration struct {
	Created time.Time `json:"created"`
	platform
	Config  process   `json:"config"`
	RootFS  rootFS    `json:"rootfs"`
	History []history `json:"history"`
}

type process struct {
	Env    []string          `json:"Env"`
	Cmd    []string          `json:"Cmd"`
	Labels map[string]string `json:"Labels"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type history struct {
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
}

// dockerImage is an entry of manifest.json, by which `docker load` before Docker 25 finds
// the image in the same archive.
type dockerImage struct {
	Config   string   `json:"Config"`
	RepoTags []string `json:"RepoTags"`
	Layers   []string `json:"Layers"`
}

// build returns the archive: an OCI image layout (image-layout.md) with one layer.
func build(files []file, im image) ([]byte, error) {
	layer, err := archive(files, im.created)
	if err != nil {
		return nil, err
	}
	zipped, err := compress(layer)
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(configuration{
		Created:  im.created,
		platform: platform{im.arch, "linux"},
		Config: process{
			Env: []string{"PATH=/usr/bin"},
			Cmd: []string{"vprocfs", "help"},
			Labels: map[string]string{
				"org.opencontainers.image.title":       "vprocfs",
				"org.opencontainers.image.description": "Containers see their own /proc",
				"org.opencontainers.image.version":     im.version,
				"org.opencontainers.image.licenses":    "Apache-2.0",
			},
		},
		RootFS:  rootFS{"layers", []string{digest(layer)}},
		History: []history{{im.created, "make image"}},
	})
	if err != nil {
		return nil, err
	}
	var blobs []file
	store := func(mediaType string, data []byte) descriptor {
		d := descriptor{MediaType: mediaType, Digest: digest(data), Size: len(data)}
		blobs = append(blobs, file{name: blob(d), mode: 0o644, data: data})
		return d
	}
	layerAt, configAt := store(typeLayer, zipped), store(typeConfig, config)
	text, err := json.Marshal(manifest{SchemaVersion: 2, MediaType: typeManifest, Config: &configAt, Layers: []descriptor{layerAt}})
	if err != nil {
		return nil, err
	}
	manifestAt := store(typeManifest, text)
	manifestAt.Platform = &platform{im.arch, "linux"}
	manifestAt.Annotations = map[string]string{
		"io.containerd.image.name":          "docker.io/library/vprocfs:" + im.version,
		"org.opencontainers.image.ref.name": im.version,
	}
	index, err := json.Marshal(manifest{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{manifestAt}})
	if err != nil {
		return nil, err
	}
	docker, err := json.Marshal([]dockerImage{{blob(configAt), []string{"vprocfs:" + im.version}, []string{blob(layerAt)}}})
	if err != nil {
		return nil, err
	}
	return archive(append(blobs,
		file{name: "oci-layout", mode: 0o644, data: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		file{name: "index.json", mode: 0o644, data: index},
		file{name: "manifest.json", mode: 0o644, data: docker},
	), im.created)
}

func digest(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

// blob returns the path of a blob in the layout.
func blob(d descriptor) string { return "blobs/" + strings.Replace(d.Digest, ":", "/", 1) }

// archive returns a tar archive of the files, sorted by their names, and of the directories
// above them. Everything belongs to root and has the same time.
func archive(files []file, at time.Time) ([]byte, error) {
	headers := make(map[string]*tar.Header)
	data := make(map[string][]byte)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Typeflag: tar.TypeReg, Mode: f.mode, Size: int64(len(f.data))}
		if f.link != "" {
			h.Typeflag, h.Mode, h.Linkname = tar.TypeSymlink, 0o777, f.link
		}
		headers[f.name], data[f.name] = h, f.data
		for dir := path.Dir(f.name); dir != "."; dir = path.Dir(dir) {
			headers[dir] = &tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}
		}
	}
	names := make([]string, 0, len(headers))
	for name := range headers {
		names = append(names, name)
	}
	slices.Sort(names)
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range names {
		h := headers[name]
		h.ModTime, h.Format = at, tar.FormatUSTAR
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if _, err := w.Write(data[name]); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	err := w.Close()
	return out.Bytes(), err
}

// compress returns data as gzip does, without a name and a time.
func compress(data []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(w, bytes.NewReader(data))
	err = errors.Join(err, w.Close())
	return out.Bytes(), err
}
