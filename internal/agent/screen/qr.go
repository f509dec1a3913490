package screen

import (
	"strings"

	"charm.land/lipgloss/v2"
	"rsc.io/qr"
)

// quietZone is the margin of a QR code, in modules. The standard asks for four; cameras
// are content with two, and windows are small.
const quietZone = 2

// qrLines draws a QR code, two modules in each character. Blocks are drawn in the
// colour of the text: dark ones on a light background, light ones on a dark one, so that
// it can be read without colours too.
func qrLines(text string, dark bool) ([]string, error) {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return nil, err
	}
	style := lipgloss.NewStyle().Foreground(lipgloss.Color("#ffffff")).Background(lipgloss.Color("#000000"))
	if !dark {
		style = lipgloss.NewStyle().Foreground(lipgloss.Color("#000000")).Background(lipgloss.Color("#ffffff"))
	}
	block := func(x, y int) bool { return code.Black(x, y) != dark }
	var lines []string
	for y := -quietZone; y < code.Size+quietZone; y += 2 {
		var b strings.Builder
		for x := -quietZone; x < code.Size+quietZone; x++ {
			switch top, bottom := block(x, y), block(x, y+1); {
			case top && bottom:
				b.WriteRune('█')
			case top:
				b.WriteRune('▀')
			case bottom:
				b.WriteRune('▄')
			default:
				b.WriteByte(' ')
			}
		}
		lines = append(lines, style.Render(b.String()))
	}
	return lines, nil
}
