package http1

// Error is a fault of who sent the bytes.
type Error struct {
	Status int // for a visitor
	Reason string
}

func (e *Error) Error() string { return e.Reason }

// Faults.
var (
	ErrBareLF        = &Error{400, "a line does not end in CRLF"}
	ErrBadStart      = &Error{400, "malformed first line"}
	ErrBadTarget     = &Error{400, "malformed request target"}
	ErrBadField      = &Error{400, "malformed header field"}
	ErrBadHost       = &Error{400, "not exactly one Host"}
	ErrBadLength     = &Error{400, "not exactly one Content-Length that is a number"}
	ErrTwoLengths    = &Error{400, "both Content-Length and Transfer-Encoding"}
	ErrBadCoding     = &Error{501, "a transfer coding other than chunked"}
	ErrOldCoding     = &Error{400, "Transfer-Encoding in HTTP/1.0"}
	ErrBadChunk      = &Error{400, "malformed chunk"}
	ErrBadVersion    = &Error{505, "a version other than HTTP/1.0 and 1.1"}
	ErrHeadTooLarge  = &Error{431, "head over its size limit"}
	ErrTooManyFields = &Error{431, "too many header fields"}
)
