package store

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestCompaction: who watches from a revision that has been compacted reads all anew.
func TestCompaction(t *testing.T) {
	s, err := Open(t.Context(), Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 3 {
		if _, err := s.CreateToken(t.Context(), "", Rights{}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := s.client.Get(t.Context(), s.prefix)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Compact(t.Context(), r.Header.Revision); err != nil {
		t.Fatal(err)
	}
	v := newView(s.tokenTable())
	if next := v.table.watch(t.Context(), v, 1); next != 0 {
		t.Fatalf("goes on from %d", next)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		v.table.Follow(ctx, v)
		close(ended)
	}()
	<-v.ready
	if n := len(v.All()); n != 3 {
		t.Errorf("%d tokens", n)
	}
	stop()
	<-ended
}

// busy is a store that others write to between any two reads.
type busy struct {
	clientv3.KV
	write func()
}

func (b busy) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	r, err := b.KV.Get(ctx, key, opts...)
	b.write()
	return r, err
}

// TestPages: what is read in pages is as it was at one revision, the one that is returned:
// who watches from the next one on misses nothing.
func TestPages(t *testing.T) {
	s, err := Open(t.Context(), Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put := func(key string) int64 {
		r, err := s.client.Put(t.Context(), "pages/"+key, "")
		if err != nil {
			t.Fatal(err)
		}
		return r.Header.Revision
	}
	is := []string{"a", "b", "c", "d", "e"}
	var rev int64
	for _, key := range is {
		rev = put(key)
	}
	written := 0
	kv := busy{KV: s.client, write: func() {
		written++
		put(fmt.Sprintf("a%d", written)) // where it has read
		put(fmt.Sprintf("e%d", written)) // and where it will
	}}
	var got []string
	at, err := readAll(t.Context(), kv, "pages/", 2, func(kv *mvccpb.KeyValue) error {
		got = append(got, strings.TrimPrefix(string(kv.Key), "pages/"))
		return nil
	})
	if err != nil || at != rev || !slices.Equal(got, is) {
		t.Errorf("%v as of %d, %v; want %v as of %d", got, at, err, is, rev)
	}
	if written != 3 {
		t.Errorf("%d pages", written)
	}
}

// behind is a sink that is told no more than what has been read when it is told.
type behind struct {
	t       *testing.T
	told    int64
	records int
	all     chan struct{} // closed with the last one
}

func (b *behind) Reset([]Record[Token], int64) {}
func (b *behind) Drop(string)                  {}
func (b *behind) Put(r Record[Token]) {
	b.told = r.rev
	if b.records--; b.records == 0 {
		close(b.all)
	}
}

func (b *behind) Reached(rev int64) {
	if b.records > 0 && rev > b.told {
		b.t.Errorf("up to %d was told, and %d said to be reached: a watch that breaks goes on from there", b.told, rev)
	}
}

// TestCatchingUp: who is far behind is told in portions, and that of each as far as it goes.
func TestCatchingUp(t *testing.T) {
	s, err := Open(t.Context(), Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const records = 1200 // etcd's portions have a thousand
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := range records / 8 {
				if _, err := s.tokenTable().put(t.Context(), fmt.Sprintf("%d-%d", w, i), 0, Token{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	ctx, stop := context.WithCancel(t.Context())
	b := &behind{t: t, records: records, all: make(chan struct{})}
	ended := make(chan struct{})
	go func() {
		s.tokenTable().watch(ctx, b, 1)
		close(ended)
	}()
	select {
	case <-b.all:
	case <-time.After(time.Minute):
		t.Error("not all was told")
	}
	stop()
	<-ended
}

// TestResetTells: what changed while a view was away is told as if it had been there.
func TestResetTells(t *testing.T) {
	rec := func(key string, rev int64) Record[string] { return Record[string]{Key: key, Value: key, rev: rev} }
	v := newView(table[string]{})
	v.Reset([]Record[string]{rec("kept", 1), rec("gone", 2), rec("changed", 3)}, 3)
	var told []string
	v.OnChange(func(was, is *string) {
		switch {
		case was == nil:
			told = append(told, "+"+*is)
		case is == nil:
			told = append(told, "-"+*was)
		default:
			told = append(told, "="+*is)
		}
	})
	v.Reset([]Record[string]{rec("kept", 1), rec("changed", 5), rec("new", 4)}, 5)
	if len(told) != 3 {
		t.Errorf("told %v", told)
	}
	v.Drop("nobody")
	if len(told) != 3 {
		t.Errorf("told %v", told)
	}
}
