package ui

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"mime"
	"path"
	"strings"
)

//go:embed static
var staticFiles embed.FS

// assetRoot holds the hash of all assets, so that every release has addresses of its own and answers may be cached for
// ever, and so that modules which import each other by relative paths always match.
var assetRoot = "/assets/" + hashOf(staticFiles)

// styles is the style sheet: its parts joined in the order in which they build on each other.
var styles = mustJoin("token", "base", "frame", "form", "table", "part", "print")

// AssetURL returns the address of an asset, for example AssetURL("app.css").
func AssetURL(name string) string { return assetRoot + "/" + name }

// AssetPattern is the route under which Asset is to be served; the rest of the path is Asset's name.
const AssetPattern = "/assets/:hash/*"

// Asset returns an asset's bytes and media type. Only names of embedded files are found.
func Asset(name string) (data []byte, mediaType string, ok bool) {
	if !fs.ValidPath(name) {
		return nil, "", false
	}
	if name == "app.css" {
		return styles, mediaTypeOf(name), true
	}
	data, err := staticFiles.ReadFile("static/" + name)
	if err != nil {
		return nil, "", false
	}
	return data, mediaTypeOf(name), true
}

// mediaTypeOf does not ask the system's table: an image without /etc/mime.types must serve modules as scripts too.
func mediaTypeOf(name string) string {
	switch path.Ext(name) {
	case ".css":
		return "text/css; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	}
	if t := mime.TypeByExtension(path.Ext(name)); t != "" {
		return t
	}
	return "application/octet-stream"
}

func hashOf(files fs.FS) string {
	h := sha256.New()
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(files, name)
		h.Write([]byte(name + "\x00"))
		h.Write(data)
		return err
	})
	if err != nil {
		panic("ui: read embedded assets: " + err.Error())
	}
	return strings.ToLower(hex.EncodeToString(h.Sum(nil)[:8]))
}

func mustJoin(parts ...string) []byte {
	var sheet []byte
	for _, part := range parts {
		data, err := staticFiles.ReadFile("static/css/" + part + ".css")
		if err != nil {
			panic("ui: read embedded style sheet: " + err.Error())
		}
		sheet = append(sheet, data...)
	}
	return sheet
}
