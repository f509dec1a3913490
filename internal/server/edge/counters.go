package edge

import "sync/atomic"

// Counters count, since the node's start, what was not served.
type Counters struct {
	Pending       int64 // TLS connections reset because too many sent no ClientHello yet
	NoHello       int64 // no ClientHello in time, or the end before it
	NotTLS        int64 // something else than a ClientHello
	UnknownName   int64 // a TLS server name without endpoint, or none
	Offline       int64 // no route, or no stream by it
	OverLimit     int64 // visitors beyond an endpoint's limits
	ProxyRefused  int64 // connections with a bad PROXY header, or none where one is needed
	FlowsRefused  int64 // datagrams of new visitors who found no room
	FlowsEvicted  int64 // flows ended early to make room
	Flows         int64 // of udp endpoints, now
	DatagramsLost int64 // of flows: queue full, over the bandwidth limit, or not to be sent
}

// counters are Counters at work.
type counters struct {
	pending, noHello, notTLS, unknownName, offline, overLimit, proxyRefused atomic.Int64

	flowsRefused, flowsEvicted, datagramsLost atomic.Int64
}

// Counters returns the counts of now.
func (e *Edge) Counters() Counters {
	c := &e.counters
	return Counters{
		Pending: c.pending.Load(), NoHello: c.noHello.Load(), NotTLS: c.notTLS.Load(), UnknownName: c.unknownName.Load(),
		Offline: c.offline.Load(), OverLimit: c.overLimit.Load(), ProxyRefused: c.proxyRefused.Load(),
		Flows: e.flows.Load(), FlowsRefused: c.flowsRefused.Load(), FlowsEvicted: c.flowsEvicted.Load(), DatagramsLost: c.datagramsLost.Load(),
	}
}
