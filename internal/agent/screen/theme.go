package screen

import (
	"image/color"

	"charm.land/lipgloss/v2"
)

// theme is how things look. Bubble Tea takes out what the terminal can't show, and all
// colours under NO_COLOR; no style says what the words don't.
type theme struct {
	name, url, accent, dim, strong lipgloss.Style
	good, warn, bad, plain         lipgloss.Style
	get                            lipgloss.Style // methods
}

// newTheme makes one for a dark or a light background.
func newTheme(dark bool) theme {
	pick := lipgloss.LightDark(dark)
	ink := func(light, dark string) color.Color { return pick(lipgloss.Color(light), lipgloss.Color(dark)) }
	style := lipgloss.NewStyle
	return theme{
		name:   style().Bold(true).Foreground(ink("#00695c", "#5eead4")),
		url:    style().Bold(true).Foreground(ink("#0b57d0", "#7dd3fc")),
		accent: style().Foreground(ink("#00695c", "#5eead4")),
		dim:    style().Foreground(ink("#5f6368", "#8b949e")),
		strong: style().Bold(true),
		good:   style().Foreground(ink("#137333", "#4ade80")),
		warn:   style().Foreground(ink("#9a5b00", "#fbbf24")),
		bad:    style().Bold(true).Foreground(ink("#b3261e", "#f87171")),
		get:    style().Foreground(ink("#6d28d9", "#c4b5fd")),
		plain:  style(),
	}
}

// status is the style of an HTTP status.
func (t theme) status(code int) lipgloss.Style {
	switch {
	case code >= 500:
		return t.bad
	case code >= 400:
		return t.warn
	case code >= 300:
		return t.accent
	case code > 0:
		return t.good
	}
	return t.dim
}
