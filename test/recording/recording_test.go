package recording

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// parts are the texts of a picture, and its rectangles' and texts' colours.
func parts(t *testing.T, svg string) (texts, colours []string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(svg))
	inText := false
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return texts, colours
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, svg)
		}
		switch e := token.(type) {
		case xml.StartElement:
			inText = e.Name.Local == "text"
			for _, a := range e.Attr {
				if a.Name.Local == "fill" {
					colours = append(colours, a.Value)
				}
			}
		case xml.CharData:
			if inText {
				texts = append(texts, string(e))
			}
		case xml.EndElement:
			inText = false
		}
	}
}

func TestSVG(t *testing.T) {
	var b strings.Builder
	frames := []Frame{
		{Text: "$ cul\n", X: 5, For: time.Second},
		{Text: "$ cul\n\x1b[1;38;5;196m<b>\x1b[0m & \x1b[38;2;1;2;3mé漢\x1b[39m x\n\x1b[7m▀▀█\x1b[m\x1b(B\n\x1b[44mover\nlines\x1b[49m", NoPoint: true, For: 3 * time.Second},
	}
	if err := SVG(&b, `what "it" shows`, 20, 10, 1, frames); err != nil {
		t.Fatal(err)
	}
	svg := b.String()
	texts, colours := parts(t, svg)
	if got := strings.Join(texts, "|"); got != "$ cul|<b>|&|é漢|x|over|lines" {
		t.Errorf("texts %q", got)
	}
	all := strings.Join(colours, " ")
	for _, want := range []string{"#ff0000", "#010203", basic[4], paper} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s in %s", want, all)
		}
	}
	for _, want := range []string{`k0{0.000%{visibility:visible}25.000%{visibility:hidden}}`, `k1{0%{visibility:hidden}25.000%{visibility:visible}}`, `.f1{visibility:visible}`, "4.00s"} {
		if !strings.Contains(svg, want) {
			t.Errorf("no %s", want)
		}
	}
	if n := strings.Count(svg, ">$ cul<"); n != 1 {
		t.Errorf("a line of two frames is there %d times", n)
	}
}

// TestNoise: whatever a terminal shows makes a picture.
func TestNoise(t *testing.T) {
	for _, text := range []string{"", "\x1b", "\x1b[", "\x1b[38;5m x", "\x1b[38;2;1m", "\x1b[38;5;999mx", "\x1b[99999999999999999999m", "\xff\xfe", "\x00\x07a", "\x1b[:m"} {
		var b strings.Builder
		if err := SVG(&b, "t", 10, 2, 0, []Frame{{Text: text, For: time.Second}}); err != nil {
			t.Fatal(err)
		}
		parts(t, b.String())
	}
}
