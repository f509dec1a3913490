package screen

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/charmbracelet/x/ansi"
)

// Bounds of what strangers wrote.
const (
	maxText  = 600 // bytes
	maxMarks = 3   // combining characters in a row: more of them climb over other lines
)

// clean makes text fit to be shown: one line, of characters that can be seen. Control
// characters would be orders to the terminal, and those of format (RFC 8265 has no
// place for them either) could turn the line around.
func clean(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "…"
	}
	marks := 0
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return ' '
		}
		if !unicode.Is(unicode.M, r) {
			marks = 0
			return r
		}
		if marks++; marks > maxMarks {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, " "))
}

// cleanURL makes text fit for a place where only ASCII belongs, such as a path. What
// does not belong there is shown as a URL would have it.
func cleanURL(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	var b strings.Builder
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f {
			fmt.Fprintf(&b, "%%%02X", c)
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// cut shortens text to a number of columns.
func cut(s string, width int) string {
	if width <= 0 {
		return ""
	}
	return ansi.Truncate(s, width, "…")
}

// fill is cut, and makes up with spaces what is missing.
func fill(s string, width int) string {
	s = cut(s, width)
	return s + strings.Repeat(" ", max(0, width-ansi.StringWidth(s)))
}

// right is fill from the left.
func right(s string, width int) string {
	s = cut(s, width)
	return strings.Repeat(" ", max(0, width-ansi.StringWidth(s))) + s
}

// size writes a number of bytes as people do.
func size(n int64) string {
	if n < 1000 {
		return strconv.FormatInt(n, 10) + " B"
	}
	v := float64(n)
	for _, unit := range []string{"kB", "MB", "GB", "TB"} {
		if v /= 1000; v < 999.5 {
			return significant(v) + " " + unit
		}
	}
	return significant(v/1000) + " PB"
}

// significant writes a number below 1000 with as many digits as say something.
func significant(v float64) string {
	if v < 9.95 {
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}

// rate writes how many there are in a second.
func rate(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 0.1:
		return "<0.1"
	case v >= 999.5:
		return strings.ReplaceAll(size(int64(v)), " kB", "k")
	}
	return significant(v)
}

// taken writes how long something took, in milliseconds.
func taken(ms float64) string {
	switch {
	case ms < 1:
		return "<1 ms"
	case ms < 9950:
		return strconv.FormatFloat(ms, 'f', 0, 64) + " ms"
	case ms < 600_000:
		return significant(ms/1000) + " s"
	}
	return ago(time.Duration(ms) * time.Millisecond)
}

// ago writes a time in the unit in which it is told, so that it seldom changes.
func ago(d time.Duration) string {
	switch {
	case d < time.Minute:
		return strconv.Itoa(max(0, int(d.Seconds()))) + " s"
	case d < time.Hour:
		return strconv.Itoa(int(d.Minutes())) + " min"
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %02d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return strconv.Itoa(int(d.Hours()/24)) + " days"
}

// count writes a number and what is counted.
func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.FormatInt(n, 10) + " " + many
}
