package http1

import "bytes"

// Response is the head of an answer.
type Response struct {
	Head
	Status int
	Reason []byte
	// Upgrade is what a 101 goes over to; nil: nothing.
	Upgrade []byte
	// Bodiless says that no body follows, whatever the fields say.
	Bodiless bool
}

// Parse reads a head, with its empty line, as ReadHead returns it. toHEAD says that the
// request was a HEAD.
func (r *Response) Parse(head []byte, toHEAD bool) error {
	r.reset()
	*r = Response{Head: r.Head}
	line, rest, err := firstLine(head)
	if err != nil {
		return err
	}
	if len(line) < len("HTTP/1.1 200") || line[8] != ' ' || !isDigit(line[9]) || !isDigit(line[10]) || !isDigit(line[11]) || line[9] == '0' {
		return ErrBadStart
	}
	if r.Minor, err = parseVersion(line[:8]); err != nil {
		return err
	}
	r.Status = int(line[9]-'0')*100 + int(line[10]-'0')*10 + int(line[11]-'0')
	if len(line) > 12 {
		if r.Reason = line[13:]; line[12] != ' ' || !isText(r.Reason) {
			return ErrBadStart
		}
	}
	if r.Fields, err = parseFields(r.Fields, rest); err != nil {
		return err
	}
	if err := r.frame(); err != nil {
		return err
	}
	r.Bodiless = toHEAD || r.Status < 200 || r.Status == 204 || r.Status == 304
	switch {
	case r.Bodiless:
		r.Length = 0
		r.Chunked = false
	case !r.hasLength:
		r.Length = Unknown
	}
	for i := range r.Fields {
		if f := &r.Fields[i]; f.Kind == Upgrade && r.upgrades {
			r.Upgrade = f.Value
		}
	}
	if r.Status == 101 && (r.Minor == 0 || len(r.Upgrade) == 0 || bytes.IndexByte(r.Upgrade, ',') >= 0) {
		return ErrBadStart
	}
	return nil
}

// ToTheEnd reports whether the body ends with the connection.
func (r *Response) ToTheEnd() bool { return !r.Bodiless && !r.Chunked && r.Length == Unknown }
