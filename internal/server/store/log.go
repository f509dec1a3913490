package store

import (
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/culvert-tunnel/culvert/internal/server/zaplog"
)

// memberLog passes etcd's warnings on, each at most once a minute: a member that is away is
// one every second. Until the member has started they are of no use:
// they repeat its configuration. When it closes they are none: they say that it closes.
type memberLog struct {
	failed chan<- error
	least  atomic.Int32 // zapcore.Level that is passed on

	mu struct {
		sync.Mutex
		said map[string]time.Time // of which entry each message was passed on last
	}
}

// Bounds of what is remembered of messages.
const (
	saidEvery = time.Minute
	maxSaid   = 100
)

// early is what etcd may say of a file that nothing was written to yet. It tries again.
var early = map[string]bool{"Failed to detect schema version": true, "failed to update storage version": true}

// again reports whether another entry of the same was passed on a moment ago.
func (l *memberLog) again(e zapcore.Entry) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	last, said := l.mu.said[e.Message]
	if said && !e.Time.Equal(last) && e.Time.Sub(last) < saidEvery {
		return true
	}
	if l.mu.said == nil || len(l.mu.said) >= maxSaid {
		l.mu.said = make(map[string]time.Time)
	}
	l.mu.said[e.Message] = e.Time
	return false
}

func newMemberLog(failed chan<- error) *memberLog {
	l := &memberLog{failed: failed}
	l.pass(zapcore.ErrorLevel)
	return l
}

// pass sets the least level that is passed on.
func (l *memberLog) pass(least zapcore.Level) { l.least.Store(int32(least)) }

// to returns a logger for etcd.
func (l *memberLog) to(log *slog.Logger) *zap.Logger {
	core := zaplog.New(log, "etcd: ", func(e zapcore.Entry) (slog.Level, bool) {
		return slog.LevelWarn, int32(e.Level) >= l.least.Load() && !early[e.Message] && (e.Message == "" || !l.again(e))
	})
	return zap.New(core, zap.WithFatalHook(l), zap.WithPanicHook(l))
}

// fatalError is what etcd took for the end of its process.
type fatalError struct{ message string }

func (e *fatalError) Error() string { return "etcd: " + e.message }

// OnWrite implements zapcore.CheckWriteHook for entries after which zap would end the
// process or panic. It is the goroutine that must not go on; the process may.
func (l *memberLog) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := &fatalError{e.Message}
	for _, f := range fields {
		if cause, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			err.message += ": " + cause.Error()
		}
	}
	select {
	case l.failed <- fmt.Errorf("%w: %w", ErrDamaged, err):
	default:
	}
	runtime.Goexit()
}
