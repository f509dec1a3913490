// Package sample has what benchmarks say of the values of their rounds.
package sample

import (
	"fmt"
	"math"
	"slices"
	"strconv"
)

// Median of at least one value.
func Median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if len(v)%2 == 1 {
		return v[len(v)/2]
	}
	return (v[len(v)/2-1] + v[len(v)/2]) / 2
}

// Spread shows the median with the least and the greatest value; "-" without any.
func Spread(v []float64) string {
	if len(v) == 0 {
		return "-"
	}
	return fmt.Sprintf("%s [%s…%s]", Figure(Median(v)), figure(slices.Min(v), 3), figure(slices.Max(v), 3))
}

// Figure shows four digits of v, and where there are more zeros for them: 12,590.
func Figure(v float64) string { return figure(v, 4) }

func figure(v float64, digits int) string {
	s := strconv.FormatFloat(v, 'g', digits, 64)
	if math.Abs(v) < 1000 || math.IsInf(v, 0) {
		return s
	}
	short, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return s
	}
	s = strconv.FormatFloat(short, 'f', 0, 64)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
