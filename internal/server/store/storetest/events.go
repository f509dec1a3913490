package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/culvert-tunnel/culvert/internal/server/store"
)

func events(t *testing.T, one, two *store.Store) {
	node := uuid.NewString()
	w := one.NewEvents()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	for i := range 150 {
		w.Add(store.Event{At: time.Now(), Node: node, Kind: "endpoint_bound", Name: fmt.Sprint(i)})
	}
	mine := func() (list []store.Event) {
		all, err := two.Events(t.Context(), 0)
		check(t, err)
		for _, e := range all {
			if e.Node == node {
				list = append(list, e)
			}
		}
		return list
	}
	eventually(t, "the events", func() bool { return len(mine()) > 0 })
	stop()
	check(t, <-ended)
	list := mine()
	if len(list)+w.Dropped() < 150 || w.Dropped() == 0 || list[0].At.Before(list[len(list)-1].At) {
		t.Errorf("%d events, %d dropped", len(list), w.Dropped())
	}
}

func bounds(t *testing.T, one, _ *store.Store) {
	huge := store.Rights{Label: strings.Repeat("x", 2<<20)}
	if _, err := one.CreateToken(t.Context(), "", huge); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("a huge record: %v", err)
	}
	st, err := one.Health(t.Context())
	if err != nil || st.Version == "" || st.Bytes == 0 || len(st.Alarms) != 0 {
		t.Errorf("%+v, %v", st, err)
	}
}
