package edge

import (
	"errors"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/culvert-tunnel/culvert/internal/tunnel"
)

// Pages are an operator's own pages for errors; nil: there are none.
type Pages struct {
	pages map[string]*template.Template // by code, status or "default"
}

// errorData is what a page may show.
type errorData struct {
	Status        int
	Title, Advice string
	Code          tunnel.Code
	Host          string // as the visitor wrote it
	RequestID     string
}

// ErrBadPages says that an operator's pages can't be used.
var ErrBadPages = errors.New("error pages")

const maxPage = 256 << 10 // bytes

// LoadPages reads the pages of a directory: endpoint_offline.html for a code, 503.html for
// a status, default.html for the rest, each a template (html/template). Each is tried.
func LoadPages(dir string) (*Pages, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.html"))
	if err == nil && len(files) == 0 {
		if _, err = os.Stat(dir); err == nil {
			err = errors.New(dir + " holds no *.html")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadPages, err)
	}
	p := &Pages{pages: make(map[string]*template.Template)}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".html")
		page, err := loadPage(name, file)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrBadPages, file, err)
		}
		p.pages[name] = page
	}
	return p, nil
}

func loadPage(name, file string) (*template.Template, error) {
	if !isPageName(name) {
		return nil, errors.New("name it after a code such as endpoint_offline, a status of one such as 503, or default")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(f, maxPage+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxPage {
		return nil, fmt.Errorf("it is over %d KiB", maxPage>>10)
	}
	page, err := template.New(name).Parse(string(b))
	if err != nil {
		return nil, err
	}
	return page, page.Execute(io.Discard, errorData{Status: 503, Title: "t", Advice: "a", Code: "c", Host: "h", RequestID: "r"})
}

func isPageName(name string) bool {
	if _, ok := visitorErrors[tunnel.Code(name)]; ok || name == "default" {
		return true
	}
	for _, e := range visitorErrors {
		if strconv.Itoa(e.status) == name {
			return true
		}
	}
	return false
}

// of returns the page for a code: the operator's for it, for its status, for all, or ours.
func (p *Pages) of(code tunnel.Code) *template.Template {
	if p != nil {
		for _, name := range []string{string(code), strconv.Itoa(visitorErrors[code].status), "default"} {
			if page := p.pages[name]; page != nil {
				return page
			}
		}
	}
	return errorTemplate
}
