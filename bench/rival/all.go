package rival

// All are the limits and the rivals that are known, found on this machine or not.
func All() []Rival {
	return []Rival{
		{Name: "none", Settings: "the service itself", Limit: true, Plan: planNone},
		haproxy("haproxy", "option splice-auto, no encryption", true, false),
		variant(haproxy("haproxy copies", "no splice, no encryption", false, false)),
		variant(haproxy("haproxy TLS", "TLS between them, a connection for each visitor", false, true)),
		{
			Name: "nginx", Settings: "two in a row, HTTP, connections kept, no encryption between them", Limit: true,
			Needs: []string{"nginx", "openssl"}, Version: []string{"nginx", "-v"}, Plan: planNginx,
		},
		frp("frp", "defaults: TLS, one connection with Yamux", ""),
		variant(frp("frp plain", "TLS off", "transport.tls.enable = false\n")),
		variant(frp("frp no mux", "TLS, a connection for each visitor", "transport.tcpMux = false\n")),
		rathole("rathole", false),
		variant(rathole("rathole TLS", true)),
		{
			Name: "bore", Settings: "defaults: no encryption, a connection for each visitor",
			Needs: []string{"bore"}, Version: []string{"bore", "--version"}, Plan: planBore,
		},
		{
			Name: "chisel", Settings: "defaults: SSH over one WebSocket",
			Needs: []string{"chisel"}, Version: []string{"chisel", "--version"}, Plan: planChisel,
		},
		{
			Name: "sish", Settings: "defaults, no authentication; OpenSSH as the agent",
			Needs: []string{"sish", "ssh", "ssh-keygen"}, Version: []string{"sish", "--version"}, Plan: planSish,
		},
		gost("gost", "relay, no encryption", "relay"),
		variant(gost("gost TLS", "relay over TLS", "relay+tls")),
		{
			Name: "piko", Settings: "defaults: WebSocket with Yamux, no TLS; TCP through its forwarder",
			Needs: []string{"piko"}, Version: []string{"piko", "--version"}, Plan: planPiko,
		},
	}
}

func variant(r Rival) Rival {
	r.Variant = true
	return r
}
