// Package zaplog lets what logs by zap, CertMagic and etcd, log by slog. What of it is
// worth a line, and at which level, is up to who uses them.
package zaplog

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"go.uber.org/zap/zapcore"
)

// Rule says at which level an entry is logged, and whether at all.
type Rule func(e zapcore.Entry) (slog.Level, bool)

// New returns a core that logs to a logger what the rule lets through, behind a prefix that
// says who speaks.
func New(to *slog.Logger, prefix string, rule Rule) zapcore.Core {
	return core{to: to.Handler(), prefix: prefix, rule: rule}
}

type core struct {
	to     slog.Handler
	prefix string
	rule   Rule
}

// Enabled implements zapcore.LevelEnabler.
func (c core) Enabled(l zapcore.Level) bool { return c.passes(zapcore.Entry{Level: l}) }

func (c core) passes(e zapcore.Entry) bool {
	level, ok := c.rule(e)
	return ok && c.to.Enabled(context.Background(), level) //nolint:forbidigo // zap has no context to hand on
}

// With implements zapcore.Core.
func (c core) With(fields []zapcore.Field) zapcore.Core {
	c.to = c.to.WithAttrs(attrs(fields))
	return c
}

// Check implements zapcore.Core.
func (c core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.passes(e) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements zapcore.Core.
func (c core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level, _ := c.rule(e)
	r := slog.NewRecord(e.Time, level, c.prefix+e.Message, 0)
	r.AddAttrs(attrs(fields)...)
	return c.to.Handle(context.Background(), r) //nolint:forbidigo // zap has no context to hand on
}

// Sync implements zapcore.Core.
func (core) Sync() error { return nil }

// attrs leaves out what zap would show by reflection: things with all that is in them,
// which others change meanwhile, and of which some is secret.
func attrs(fields []zapcore.Field) []slog.Attr {
	m := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		if f.Type != zapcore.ReflectType {
			f.AddTo(m)
		}
	}
	list := make([]slog.Attr, 0, len(m.Fields))
	for _, key := range slices.Sorted(maps.Keys(m.Fields)) {
		list = append(list, slog.Any(key, m.Fields[key]))
	}
	return list
}
