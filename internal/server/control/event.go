package control

// Event is something that an operator may want to know of or count.
type Event struct {
	Kind   EventKind
	Agent  string
	Token  string // id
	Name   string // of an endpoint
	Code   string // of a refusal
	Remote string
}

// EventKind says what happened.
type EventKind string

// The kinds of events.
const (
	AgentConnected    EventKind = "agent_connected"
	AgentDisconnected EventKind = "agent_disconnected"
	AgentRefused      EventKind = "agent_refused"
	EndpointBound     EventKind = "endpoint_bound"
	EndpointReleased  EventKind = "endpoint_released"
	EndpointRefused   EventKind = "endpoint_refused"
)

// tell tells of an event, if anybody listens.
func (cfg *Config) tell(e Event) {
	if cfg.Event != nil {
		cfg.Event(e)
	}
}
