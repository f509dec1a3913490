// Package http1 reads and writes HTTP/1.1 as bytes (RFC 9112): heads of requests and
// answers, and the framing of bodies. It owns what is allowed in them and knows
// nothing of connections' lifetimes, routes or visitors; package edge moves the bytes.
//
// It is strict. What two parsers could read differently is an error, never repaired:
// whoever passes on what this package has accepted can't be made to smuggle. Heads
// are read in place: a Head points into the buffer it was read from.
package http1
