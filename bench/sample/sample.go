// Package sample has what benchmarks say of the values of their rounds.
package sample

import (
	"fmt"
	"slices"
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
	return fmt.Sprintf("%.4g [%.3g…%.3g]", Median(v), slices.Min(v), slices.Max(v))
}
