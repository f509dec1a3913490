package http1

import "bytes"

// Request is the head of a request.
type Request struct {
	Head
	Method []byte
	Target []byte // as it is to be passed on: a path, or "*"
	Scheme string // of a target in absolute form, lower case; else empty
	Host   []byte // the one there is
	Expect bool   // 100-continue, of HTTP/1.1
	// Upgrade is what the request wants to go over to, and says so in Connection too; nil:
	// nothing (RFC 9110, section 7.8).
	Upgrade  []byte
	Trailers bool // TE: trailers
}

// Parse reads a head, with its empty line, as ReadHead returns it.
func (r *Request) Parse(head []byte) error {
	r.reset()
	*r = Request{Head: r.Head}
	line, rest, err := firstLine(head)
	if err != nil {
		return err
	}
	method, target, version, err := requestLine(line)
	if err != nil {
		return err
	}
	if r.Minor, err = parseVersion(version); err != nil {
		return err
	}
	r.Method = method
	if r.Fields, err = parseFields(r.Fields, rest); err != nil {
		return err
	}
	if err := r.frame(); err != nil {
		return err
	}
	hosts, upgrades := 0, 0
	for i := range r.Fields {
		switch f := &r.Fields[i]; f.Kind {
		case Host:
			hosts++
			r.Host = f.Value
		case Expect:
			r.Expect = r.Minor > 0 && EqualFold(f.Value, "100-continue")
		case Upgrade:
			upgrades++
			r.Upgrade = f.Value
		case TE:
			r.Trailers = r.Trailers || HasToken(f.Value, "trailers")
		default:
		}
	}
	if hosts != 1 {
		return ErrBadHost
	}
	if !r.upgrades || r.Minor == 0 || upgrades > 1 || len(r.Upgrade) == 0 {
		r.Upgrade = nil
	}
	return r.setTarget(target)
}

// requestLine splits a request line at its single spaces (RFC 9112, section 3): of more
// or other white space parsers make different things.
func requestLine(line []byte) (method, target, version []byte, err error) {
	first := bytes.IndexByte(line, ' ')
	if first < 1 || !isToken(line[:first]) {
		return nil, nil, nil, ErrBadStart
	}
	method = line[:first]
	target, version, found := bytes.Cut(line[first+1:], []byte(" "))
	if !found {
		return nil, nil, nil, ErrBadStart
	}
	if len(target) == 0 || !all(target, targetByte) {
		return nil, nil, nil, ErrBadTarget
	}
	return method, target, version, nil
}

// setTarget judges the form of the target (RFC 9112, section 3.2).
func (r *Request) setTarget(target []byte) error {
	switch {
	case string(r.Method) == "CONNECT":
		r.Target = target // whether there is such a thing is the caller's to say
		return nil
	case bytes.IndexByte(target, '#') >= 0:
		return ErrBadTarget // a fragment is never sent
	case target[0] == '/':
		r.Target = target
		return nil
	case string(target) == "*" && string(r.Method) == "OPTIONS":
		r.Target = target
		return nil
	}
	return r.setAbsolute(target)
}

// setAbsolute takes a target in absolute form apart. Its host must be that of Host,
// which upstreams may prefer to it.
func (r *Request) setAbsolute(target []byte) error {
	scheme, rest, _ := bytes.Cut(target, []byte("://"))
	switch {
	case EqualFold(scheme, "http"):
		r.Scheme = "http"
	case EqualFold(scheme, "https"):
		r.Scheme = "https"
	default:
		return ErrBadTarget
	}
	end := bytes.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	if !bytes.EqualFold(rest[:end], r.Host) {
		return ErrBadHost
	}
	switch {
	case end < len(rest) && rest[end] == '/':
		r.Target = rest[end:]
	case end == len(rest) && string(r.Method) == "OPTIONS":
		r.Target = []byte("*") // RFC 9112, section 3.2.4
	default:
		r.Target = append([]byte("/"), rest[end:]...)
	}
	return nil
}

// Idempotent reports whether the request may be sent twice (RFC 9110, section 9.2.2).
func (r *Request) Idempotent() bool { return Idempotent(string(r.Method)) }

// Idempotent reports whether a method may be sent twice (RFC 9110, section 9.2.2).
func Idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE":
		return true
	}
	return false
}

// Assemble makes a request of what HTTP/2 and HTTP/3 carry apart, held to what Parse asks.
// body says that one follows.
func (r *Request) Assemble(method, target, host []byte, fields []Field, body bool) error {
	*r = Request{Head: Head{Minor: 1, Fields: fields}, Method: method, Host: host}
	if !isToken(method) {
		return ErrBadStart
	}
	if len(host) == 0 {
		return ErrBadHost
	}
	connect := string(method) == "CONNECT"
	if !all(target, targetByte) || (!connect && (len(target) == 0 || (target[0] != '/' && target[0] != '*'))) {
		return ErrBadTarget // only a path is carried (RFC 9113, section 8.3.1)
	}
	if err := CheckFields(fields); err != nil {
		return err
	}
	if err := r.frame(); err != nil {
		return err
	}
	for i := range fields {
		switch f := &fields[i]; f.Kind {
		case Expect:
			r.Expect = body && EqualFold(f.Value, "100-continue")
		case TE:
			r.Trailers = r.Trailers || HasToken(f.Value, "trailers")
		default:
		}
	}
	if body && !r.hasLength {
		r.Chunked, r.Length = true, Unknown
	}
	return r.setTarget(target)
}

// CheckFields trims values, and holds names and values against what Parse asks.
func CheckFields(fields []Field) error {
	for i := range fields {
		f := &fields[i]
		f.Value = trim(f.Value)
		if !isToken(f.Name) || !isText(f.Value) {
			return ErrBadField
		}
	}
	return nil
}
