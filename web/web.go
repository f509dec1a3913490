// Package web holds the built files of the pages whose sources stand in the folders
// beside it. They are checked in, so that building Culvert needs no Node; make web
// builds them anew.
package web

import (
	"embed"
	"io/fs"
)

//go:embed all:inspector/dist
var files embed.FS

// Inspector returns the inspector's page.
func Inspector() fs.FS {
	sub, err := fs.Sub(files, "inspector/dist")
	if err != nil {
		panic(err) // the path is a constant, and a valid one
	}
	return sub
}
