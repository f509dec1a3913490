package registry

import (
	"github.com/puzpuzpuz/xsync/v4"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// directory is what visitors look at: the members of each name, without a lock. Names of
// whole hosts, which are most, are found by one string, since to hash and compare a Name
// costs more than all the rest of a lookup.
type directory struct {
	http, tls *xsync.Map[string, *members]
	rest      *xsync.Map[endpoint.Name, *members]
}

func newDirectory() directory {
	return directory{xsync.NewMap[string, *members](), xsync.NewMap[string, *members](), xsync.NewMap[endpoint.Name, *members]()}
}

// of returns where a name stands by its host alone; nil: nowhere.
func (d *directory) of(name *endpoint.Name) *xsync.Map[string, *members] {
	switch {
	case name.Kind == endpoint.HTTP && name.Path == "":
		return d.http
	case name.Kind == endpoint.TLS:
		return d.tls
	}
	return nil
}

func (d *directory) load(name *endpoint.Name) (*members, bool) {
	if m := d.of(name); m != nil {
		return m.Load(name.Host)
	}
	return d.rest.Load(*name)
}

func (d *directory) store(name *endpoint.Name, list *members) {
	if m := d.of(name); m != nil {
		m.Store(name.Host, list)
		return
	}
	d.rest.Store(*name, list)
}

func (d *directory) delete(name *endpoint.Name) {
	if m := d.of(name); m != nil {
		m.Delete(name.Host)
		return
	}
	d.rest.Delete(*name)
}

// count is how many names have members that fit.
func (d *directory) count(fits func(*members) bool) int {
	n := 0
	each := func(m *members) bool {
		if fits(m) {
			n++
		}
		return true
	}
	d.http.Range(func(_ string, m *members) bool { return each(m) })
	d.tls.Range(func(_ string, m *members) bool { return each(m) })
	d.rest.Range(func(_ endpoint.Name, m *members) bool { return each(m) })
	return n
}
