package registry

import (
	"github.com/puzpuzpuz/xsync/v4"

	"github.com/culvert-tunnel/culvert/internal/endpoint"
)

// directory is what visitors look at: who serves each name, without a lock. Names of
// whole hosts, which are most, are found by one string, since to hash and compare a Name
// costs more than all the rest of a lookup. What is left of its cost is memory that is in
// no cache, so the only route of a name is in the table itself.
type directory struct {
	http, tls *xsync.Map[string, served]
	rest      *xsync.Map[endpoint.Name, served]
}

func newDirectory() directory {
	return directory{xsync.NewMap[string, served](), xsync.NewMap[string, served](), xsync.NewMap[endpoint.Name, served]()}
}

// of returns where a name stands by its host alone; nil: nowhere.
func (d *directory) of(name *endpoint.Name) *xsync.Map[string, served] {
	switch {
	case name.Kind == endpoint.HTTP && name.Path == "":
		return d.http
	case name.Kind == endpoint.TLS:
		return d.tls
	}
	return nil
}

func (d *directory) load(name *endpoint.Name) (served, bool) {
	if m := d.of(name); m != nil {
		return m.Load(name.Host)
	}
	return d.rest.Load(*name)
}

func (d *directory) store(name *endpoint.Name, by served) {
	if m := d.of(name); m != nil {
		m.Store(name.Host, by)
		return
	}
	d.rest.Store(*name, by)
}

func (d *directory) delete(name *endpoint.Name) {
	if m := d.of(name); m != nil {
		m.Delete(name.Host)
		return
	}
	d.rest.Delete(*name)
}

// count is how many names have a route that fits.
func (d *directory) count(fits func(*Route) bool) int {
	n := 0
	each := func(by served) bool {
		if by.has(fits) {
			n++
		}
		return true
	}
	d.http.Range(func(_ string, by served) bool { return each(by) })
	d.tls.Range(func(_ string, by served) bool { return each(by) })
	d.rest.Range(func(_ endpoint.Name, by served) bool { return each(by) })
	return n
}
