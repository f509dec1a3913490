package files

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
)

var errExists = errors.New("a file of this name is there")

// put takes a file of this name.
func (s *Server) put(w http.ResponseWriter, r *http.Request, name string) {
	if name == "." || r.URL.Path[len(r.URL.Path)-1] == '/' {
		http.Error(w, "name a file", http.StatusConflict)
		return
	}
	if err := s.store(name, http.MaxBytesReader(w, r.Body, MaxUpload)); err != nil {
		refuseUpload(w, err)
		return
	}
	w.Header().Set("Location", r.URL.EscapedPath())
	w.WriteHeader(http.StatusCreated)
}

// post takes the files of a form into the directory of this name, and shows it.
func (s *Server) post(w http.ResponseWriter, r *http.Request, dir string) {
	form, err := r.MultipartReader()
	if err != nil {
		http.Error(w, "send files as multipart/form-data", http.StatusUnsupportedMediaType)
		return
	}
	for {
		part, err := form.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			http.Error(w, "the form can't be read", http.StatusBadRequest)
			return
		}
		base := path.Base(part.FileName()) // of multipart's own judgement, without folders
		if part.FileName() == "" {
			continue
		}
		name, ok := s.name("/" + dir + "/" + base)
		if !ok {
			http.Error(w, "this name is not taken", http.StatusForbidden)
			return
		}
		if err := s.store(name, http.MaxBytesReader(w, part, MaxUpload)); err != nil {
			refuseUpload(w, err)
			return
		}
	}
	w.Header().Set("Location", "./")
	w.WriteHeader(http.StatusSeeOther)
}

// store writes a file and gives it its name when it is whole. It replaces nothing, also
// not what comes to be there meanwhile: a hard link is refused then.
func (s *Server) store(name string, body io.Reader) error {
	if _, err := s.root.Lstat(name); err == nil {
		return errExists
	}
	partial := path.Join(path.Dir(name), ".upload-"+rand.Text())
	f, err := s.root.OpenFile(partial, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("store upload: %w", err)
	}
	defer s.root.Remove(partial) //nolint:errcheck // it has its name by then, or is not whole
	_, err = io.Copy(f, body)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = s.root.Link(partial, name)
	}
	if err != nil {
		return fmt.Errorf("store upload: %w", err)
	}
	return nil
}

func refuseUpload(w http.ResponseWriter, err error) {
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		http.Error(w, "the file is too large", http.StatusRequestEntityTooLarge)
	case errors.Is(err, errExists), errors.Is(err, fs.ErrExist):
		http.Error(w, errExists.Error()+"; none is replaced", http.StatusConflict)
	default:
		refuse(w, err)
	}
}
