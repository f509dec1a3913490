package e2e

import "testing"

// TestByQUIC: what is promised by the default transport holds by QUIC.
func TestByQUIC(t *testing.T) {
	t.Setenv(transportVariable, "quic")
	for name, test := range map[string]func(*testing.T){
		"HTTP": TestHTTPKeepsItsMeaning, "TCP": TestTCPSemantics, "UDP": TestUDP, "dig": TestDig, "iperf3": TestIperf, "HTTP/3 behind": TestQUIC,
		"drain": TestDrain, "names come back": TestNamesComeBack,
	} {
		t.Run(name, test)
	}
}
