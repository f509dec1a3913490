// Package recording turns what a terminal showed into a picture that moves.
package recording

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Frame is what a terminal shows for a while.
type Frame struct {
	Text    string // its lines, with the colours in SGR sequences
	X, Y    int    // of the cursor
	NoPoint bool   // the cursor is hidden
	For     time.Duration
}

// style is how cells look.
type style struct {
	fg, bg                                  string // of CSS; empty: the terminal's own
	bold, faint, italic, underline, reverse bool
}

// cell is a place on the screen. A wide character has an empty cell behind it.
type cell struct {
	text string
	style
}

// parse reads a line as `tmux capture-pane -e` writes it. A style goes on from one line to
// the next.
func parse(line string, st style, width func(rune) int) ([]cell, style) {
	var cells []cell
	for line != "" {
		if rest, ok := strings.CutPrefix(line, "\x1b["); ok {
			end := strings.IndexFunc(rest, func(r rune) bool { return r >= '@' && r <= '~' })
			if end < 0 {
				break
			}
			if rest[end] == 'm' {
				st = st.sgr(rest[:end])
			}
			line = rest[end+1:]
			continue
		}
		if rest, ok := strings.CutPrefix(line, "\x1b"); ok { // such as a change of the character set
			line = rest[min(2, len(rest)):]
			continue
		}
		r, size := utf8.DecodeRuneInString(line)
		line = line[size:]
		if r < ' ' {
			continue
		}
		switch width(r) {
		case 0:
			if len(cells) > 0 {
				cells[len(cells)-1].text += string(r)
			}
		case 2:
			cells = append(cells, cell{string(r), st}, cell{"", st})
		default:
			cells = append(cells, cell{string(r), st})
		}
	}
	return cells, st
}

// sgr applies the parameters of a sequence.
func (st style) sgr(params string) style {
	p := strings.FieldsFunc(params, func(r rune) bool { return r == ';' || r == ':' })
	if len(p) == 0 {
		return style{}
	}
	for i := 0; i < len(p); i++ {
		n, err := strconv.Atoi(p[i])
		if err != nil {
			continue
		}
		switch {
		case n == 0:
			st = style{}
		case n == 1:
			st.bold = true
		case n == 2:
			st.faint = true
		case n == 3:
			st.italic = true
		case n == 4:
			st.underline = true
		case n == 7:
			st.reverse = true
		case n == 22:
			st.bold, st.faint = false, false
		case n == 23:
			st.italic = false
		case n == 24:
			st.underline = false
		case n == 27:
			st.reverse = false
		case n >= 30 && n <= 37:
			st.fg = indexed(n - 30)
		case n >= 90 && n <= 97:
			st.fg = indexed(n - 90 + 8)
		case n == 39:
			st.fg = ""
		case n >= 40 && n <= 47:
			st.bg = indexed(n - 40)
		case n >= 100 && n <= 107:
			st.bg = indexed(n - 100 + 8)
		case n == 49:
			st.bg = ""
		case n == 38 || n == 48:
			colour, used := extended(p[i+1:])
			if n == 38 {
				st.fg = colour
			} else {
				st.bg = colour
			}
			i += used
		}
	}
	return st
}

// extended reads a colour of the palette of 256, or one of red, green and blue.
func extended(p []string) (colour string, used int) {
	n := make([]int, 0, 4)
	for _, s := range p[:min(4, len(p))] {
		v, _ := strconv.Atoi(s)
		n = append(n, v)
	}
	switch {
	case len(n) >= 2 && n[0] == 5:
		return indexed(n[1]), 2
	case len(n) >= 4 && n[0] == 2:
		return rgb(n[1], n[2], n[3]), 4
	}
	return "", len(n)
}

var basic = [16]string{
	"#3b4252", "#e0666f", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#c8ccd4",
	"#7f8796", "#ff7b85", "#b5e08c", "#ffd68a", "#82c4ff", "#dd98f0", "#6fd3e0", "#ffffff",
}

func indexed(n int) string {
	switch {
	case n < 0 || n > 255:
		return ""
	case n < 16:
		return basic[n]
	case n >= 232:
		v := 8 + 10*(n-232)
		return rgb(v, v, v)
	}
	part := func(v int) int {
		if v == 0 {
			return 0
		}
		return 55 + 40*v
	}
	n -= 16
	return rgb(part(n/36), part(n/6%6), part(n%6))
}

func rgb(r, g, b int) string {
	const digits = "0123456789abcdef"
	s := []byte{'#'}
	for _, v := range []int{r, g, b} {
		s = append(s, digits[v>>4&15], digits[v&15])
	}
	return string(s)
}
