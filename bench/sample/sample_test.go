package sample

import "testing"

func TestFigure(t *testing.T) {
	for want, v := range map[string]float64{
		"0": 0, "0.69": 0.69, "1.851": 1.8514, "999.9": 999.94, "8,825": 8825.3, "12,590": 12588, "37,820": 37815,
		"1,235,000": 1234567, "-2,000": -2000,
	} {
		if got := Figure(v); got != want {
			t.Errorf("%v is %s instead of %s", v, got, want)
		}
	}
	if got := Spread([]float64{30000, 31234, 33333}); got != "31,230 [30,000…33,300]" {
		t.Error(got)
	}
}
