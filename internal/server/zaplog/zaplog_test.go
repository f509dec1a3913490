package zaplog

import (
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// TestLog: texts and errors are logged, the inside of things is not, nor what the rule
// keeps back.
func TestLog(t *testing.T) {
	var out strings.Builder
	rule := func(e zapcore.Entry) (slog.Level, bool) { return slog.LevelWarn, e.Level >= zapcore.InfoLevel }
	log := zap.New(New(slog.New(slog.NewTextHandler(&out, nil)), "acme: ", rule))
	storage := struct{ Key string }{"in confidence"}
	log.Debug("kept back")
	log.With(zap.Any("storage", &storage), zap.Int("n", 7)).Info("cleaning", zap.Any("account", storage), zap.String("host", "app.example.com"), zap.Strings("names", []string{"a", "b"}))
	got := out.String()
	for _, part := range []string{"level=WARN", `msg="acme: cleaning"`, "n=7", "host=app.example.com", "[a b]"} {
		if !strings.Contains(got, part) {
			t.Errorf("no %s in %s", part, got)
		}
	}
	if strings.Contains(got, "confidence") || strings.Contains(got, "kept back") {
		t.Error(got)
	}
}
