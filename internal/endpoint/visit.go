package endpoint

import "time"

// Visit is what became of a visitor's request, connection or flow of datagrams, once it is
// over: for who counts.
type Visit struct {
	Kind     Kind
	Proto    string // of a request: HTTP/1.1, HTTP/2.0, HTTP/3.0; else empty
	Status   int    // of the answer to a request; 0: there was none
	Code     string // why it was not served; empty: it was
	Upgraded bool   // the request became a connection, such as of WebSocket
	In, Out  int64  // bytes from and to the visitor; of a request's and its answer's bodies

	Queue    time.Duration // until there was a stream to the agent; 0: there was none
	Upstream time.Duration // from there to the head of the answer; 0: there was none
	Took     time.Duration // from the request's head, or the connection, to the end
}
