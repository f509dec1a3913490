package files

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
)

// maxEntries of a directory are listed.
const maxEntries = 10_000

// Entry of a listing, as its JSON shows it.
type Entry struct {
	Name     string    `json:"name"`
	URL      string    `json:"url"` // relative to the directory's
	Dir      bool      `json:"dir,omitempty"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
}

//go:embed list.html
var listHTML string

var page = template.Must(template.New("list").Funcs(template.FuncMap{"size": size, "shown": shown}).Parse(listHTML))

// crumb is a directory on the way to the one that is listed.
type crumb struct{ Name, URL string }

// list shows a directory, as a page or, to who asks for it, as JSON.
func (s *Server) list(w http.ResponseWriter, r *http.Request, dir *os.File, name string) {
	entries, more, err := s.entries(dir, name)
	if err != nil {
		refuse(w, err)
		return
	}
	h := w.Header()
	h.Set("Cache-Control", "no-cache")
	h.Set("Vary", "Accept")
	if accept := r.Header.Get("Accept"); strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/html") {
		h.Set("Content-Type", "application/json")
		if r.Method != http.MethodHead {
			_ = json.NewEncoder(w).Encode(entries)
		}
		return
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'")
	if r.Method == http.MethodHead {
		return
	}
	crumbs := []crumb{{Name: "Files", URL: "./"}}
	if name != "." {
		parts := strings.Split(name, "/")
		crumbs[0].URL = strings.Repeat("../", len(parts))
		for i, p := range parts {
			crumbs = append(crumbs, crumb{Name: p, URL: cmp.Or(strings.Repeat("../", len(parts)-1-i), "./")})
		}
	}
	_ = page.Execute(w, map[string]any{
		"Crumbs": crumbs, "Title": "/" + strings.TrimPrefix(name, "."), "Entries": entries, "More": more,
		"Root": name == ".", "Upload": s.Upload, "Max": size(MaxUpload),
	})
}

// entries reads a directory: folders first, then by name.
func (s *Server) entries(dir *os.File, name string) (entries []Entry, more bool, err error) {
	list, err := dir.ReadDir(maxEntries + 1)
	if err != nil && err != io.EOF {
		return nil, false, fmt.Errorf("list: %w", err)
	}
	entries = []Entry{}
	for _, d := range list {
		if !s.shows(d.Name()) {
			continue
		}
		info, err := s.stat(path.Join(name, d.Name()), d)
		if err != nil || !info.IsDir() && !info.Mode().IsRegular() {
			continue // gone meanwhile, leads out, or is nothing that is served
		}
		e := Entry{Name: d.Name(), Dir: info.IsDir(), Modified: info.ModTime().UTC()}
		e.URL = "./" + url.PathEscape(e.Name)
		if e.Dir {
			e.URL += "/"
		} else {
			e.Size = info.Size()
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b Entry) int {
		if a.Dir != b.Dir {
			if a.Dir {
				return -1
			}
			return 1
		}
		return cmp.Or(strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)), strings.Compare(a.Name, b.Name))
	})
	return entries, len(list) > maxEntries, nil
}

// stat follows a symbolic link as far as the directory reaches.
func (s *Server) stat(name string, d fs.DirEntry) (fs.FileInfo, error) {
	if d.Type()&fs.ModeSymlink == 0 {
		return d.Info()
	}
	return s.root.Stat(name)
}

// shown is a name on the page: without what would make it look like another, control
// characters and those that turn the direction of writing.
func shown(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return unicode.ReplacementChar
		}
		return r
	}, name)
}

// size writes bytes for people.
func size(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), 0
	for f >= 1000 && unit < 4 {
		f, unit = f/1000, unit+1
	}
	return fmt.Sprintf("%.1f %cB", f, " kMGT"[unit])
}
