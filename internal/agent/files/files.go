// Package files serves a directory over HTTP: the upstream of an endpoint that needs no
// service behind it. It stands at the end of the walk, within the agent, and listens on
// nothing: the agent takes connections to it (Dial).
//
// Nothing outside the directory is reached, whatever a path or a symbolic link says
// (os.Root), and nothing in it whose name begins with a dot unless asked for.
package files

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// MaxUpload is the limit on one uploaded file, in bytes.
const MaxUpload = 1 << 30

// Server serves a directory. Make one with New, and set its fields before it is used.
type Server struct {
	Hidden bool // show and serve what begins with a dot; .well-known is always served
	Upload bool // take files, by PUT and from the page; none is ever replaced

	root *os.Root
	http http.Server
}

// New opens the directory.
func New(dir string) (*Server, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	s := &Server{root: root}
	s.http = http.Server{
		Handler:           http.NewCrossOriginProtection().Handler(http.HandlerFunc(s.serve)),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // of visitors' faults
	}
	return s, nil
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	name, ok := s.name(r.URL.Path)
	if !ok {
		http.NotFound(w, r)
		return
	}
	switch {
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		s.get(w, r, name)
	case s.Upload && r.Method == http.MethodPut:
		s.put(w, r, name)
	case s.Upload && r.Method == http.MethodPost:
		s.post(w, r, name)
	default:
		allow := "GET, HEAD"
		if s.Upload {
			allow += ", PUT, POST"
		}
		w.Header().Set("Allow", allow)
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	}
}

// name is the path below the root that a URL's path stands for.
func (s *Server) name(p string) (string, bool) {
	if strings.ContainsAny(p, "\x00\\") {
		return "", false
	}
	name := strings.TrimPrefix(path.Clean("/"+p), "/")
	if name == "" {
		return ".", true
	}
	for part := range strings.SplitSeq(name, "/") {
		if !s.shows(part) {
			return "", false
		}
	}
	return name, true
}

// shows reports whether a name is not hidden.
func (s *Server) shows(part string) bool {
	return s.Hidden || !strings.HasPrefix(part, ".") || part == ".well-known"
}

// get serves a file, or a directory by its index.html or a listing.
func (s *Server) get(w http.ResponseWriter, r *http.Request, name string) {
	f, info, err := s.open(name)
	if err != nil {
		refuse(w, err)
		return
	}
	defer f.Close() //nolint:errcheck // read
	if info.IsDir() == strings.HasSuffix(r.URL.Path, "/") {
		if !info.IsDir() {
			content(w, r, f, info)
			return
		}
		if index, i, err := s.open(path.Join(name, "index.html")); err == nil {
			defer index.Close() //nolint:errcheck // read
			if !i.IsDir() {
				content(w, r, index, i)
				return
			}
		}
		s.list(w, r, f, name)
		return
	}
	// What is relative on the page would lead elsewhere. The target is relative itself,
	// so that no path can make it another host's.
	to := "./" + path.Base(r.URL.EscapedPath()) + "/"
	if !info.IsDir() {
		to = "../" + path.Base(r.URL.EscapedPath())
	}
	if r.URL.RawQuery != "" {
		to += "?" + r.URL.RawQuery
	}
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusMovedPermanently)
}

var errNoFile = errors.New("neither file nor directory")

// open opens a file or directory, and nothing that could block or act: no pipe, no
// device.
func (s *Server) open(name string) (*os.File, fs.FileInfo, error) {
	f, err := s.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		err = errNoFile
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// content serves a file: ranges and conditions are net/http's.
func content(w http.ResponseWriter, r *http.Request, f *os.File, info fs.FileInfo) {
	w.Header().Set("ETag", `"`+strconv.FormatInt(info.Size(), 36)+"-"+strconv.FormatInt(info.ModTime().UnixNano(), 36)+`"`)
	http.ServeContent(w, r, info.Name(), info.ModTime(), f)
}

// refuse answers an error without saying more of the machine than the visitor asked.
// What leads out of the directory is not there.
func refuse(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, fs.ErrPermission):
		http.Error(w, "not allowed", http.StatusForbidden)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		http.Error(w, "no space is left", http.StatusInsufficientStorage)
	default:
		http.Error(w, "not found", http.StatusNotFound)
	}
}
