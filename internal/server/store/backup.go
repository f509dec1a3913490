package store

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// A backup is what is durable, as of one moment: JSON, a record a line, between a first
// line that says what it is and a last one by which it is known to be whole. It is no
// snapshot of etcd's: it goes into any engine, and brings no list of members along.

// Errors of backups.
var (
	ErrNotBackup = errors.New("this is no backup, or not all of one")
	ErrNotEmpty  = errors.New("there is a state already: restore into an empty one")
)

const (
	backupKind    = "culvert backup"
	backupVersion = 1
	backupPage    = 200     // records that are read at once
	maxLine       = 4 << 20 // a record of maxValue in base64, and more
	restoreAtOnce = 100     // records in one transaction, of which etcd takes 128
	restoreBytes  = 1 << 20 // in one transaction, or one record
)

// line is one of a backup.
type line struct {
	Backup  string `json:"backup,omitempty"` // the first
	Version int    `json:"version,omitempty"`

	Key   string `json:"key,omitempty"`  // without the prefix
	File  string `json:"file,omitempty"` // of the data directory
	Value []byte `json:"value,omitempty"`

	Sum string `json:"sum,omitempty"` // the last: SHA-256 of all lines before
}

// Backup writes all that is durable, and files of the node. Where the members that are left
// can't agree on anything, it is what this node's own has.
func (s *Store) Backup(ctx context.Context, w io.Writer, files map[string][]byte) error {
	client, as, done, err := s.reader(ctx)
	if err != nil {
		return err
	}
	defer done()
	sum := sha256.New()
	enc := json.NewEncoder(io.MultiWriter(w, sum))
	if err := enc.Encode(line{Backup: backupKind, Version: backupVersion}); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := enc.Encode(line{File: name, Value: files[name]}); err != nil {
			return err
		}
	}
	_, err = readAll(ctx, client, s.prefix, backupPage, func(kv *mvccpb.KeyValue) error {
		if kv.Lease != 0 {
			return nil // live, not durable
		}
		return enc.Encode(line{Key: strings.TrimPrefix(string(kv.Key), s.prefix), Value: kv.Value})
	}, as...)
	if err != nil {
		return err
	}
	return enc.Encode(line{Sum: hex.EncodeToString(sum.Sum(nil))})
}

// reader returns a client for a backup, with how it is to read, and what to do afterwards.
func (s *Store) reader(ctx context.Context) (client *clientv3.Client, as []clientv3.OpOption, done func(), err error) {
	short, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	_, err = s.client.Get(short, s.prefix)
	switch err = fault(err); {
	case err == nil:
		return s.client, nil, func() {}, nil
	case !errors.Is(err, ErrUnavailable) || s.cluster == nil || s.member == nil:
		return nil, nil, nil, fmt.Errorf("read the store: %w", err)
	}
	s.log.Warn("the members of the cluster that are left can't agree on anything: the backup is what this server has")
	client, err = clientv3.New(clientv3.Config{
		Endpoints: []string{ownEndpoint}, Logger: zap.NewNop(), DialOptions: []grpc.DialOption{grpc.WithContextDialer(s.cluster.dial)},
	})
	if err != nil {
		return nil, nil, nil, fmt.Errorf("read the store: %w", err)
	}
	return client, []clientv3.OpOption{clientv3.WithSerializable()}, func() { _ = client.Close() }, nil
}

// ReadBackup reads a backup and tells of its records and files, unless key or file is nil.
// That it is whole is known when there is no error at the end.
func ReadBackup(r io.Reader, key, file func(name string, value []byte) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	sum := sha256.New()
	for first := true; lines.Scan(); first = false {
		l, err := readLine(lines.Bytes())
		switch {
		case err != nil:
			return err
		case first != (l.Backup == backupKind):
			return ErrNotBackup
		case first && l.Version != backupVersion:
			return fmt.Errorf("%w: it is of version %d, and %d is known here", ErrNotBackup, l.Version, backupVersion)
		case l.Sum == hex.EncodeToString(sum.Sum(nil)) && !lines.Scan():
			return lines.Err()
		case l.Sum != "":
			return fmt.Errorf("%w: it was changed", ErrNotBackup)
		case l.Key != "" && key != nil:
			err = key(l.Key, l.Value)
		case l.File != "" && file != nil:
			err = file(l.File, l.Value)
		}
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(sum, "%s\n", lines.Bytes()) // never fails
	}
	return errors.Join(ErrNotBackup, lines.Err())
}

func readLine(b []byte) (line, error) {
	var l line
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&l); err != nil {
		return l, fmt.Errorf("%w: %w", ErrNotBackup, err)
	}
	return l, nil
}

// Restore writes the records of a backup, which has been read to its end before, into a
// store that has none.
func (s *Store) Restore(ctx context.Context, r io.Reader) error {
	short, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	some, err := s.client.Get(short, s.prefix, clientv3.WithPrefix(), clientv3.WithLimit(1), clientv3.WithKeysOnly())
	if err != nil {
		return fmt.Errorf("read the store: %w", fault(err))
	}
	if len(some.Kvs) > 0 {
		return ErrNotEmpty
	}
	var ops []clientv3.Op
	size := 0
	flush := func() error {
		short, cancel := context.WithTimeout(ctx, 10*Patience)
		defer cancel()
		_, err := s.client.Txn(short).Then(ops...).Commit()
		ops, size = nil, 0
		return fault(err)
	}
	err = ReadBackup(r, func(name string, value []byte) error {
		if len(ops) > 0 && (len(ops) == restoreAtOnce || size+len(value) > restoreBytes) {
			if err := flush(); err != nil {
				return err
			}
		}
		ops, size = append(ops, clientv3.OpPut(s.prefix+name, string(value))), size+len(value)
		return nil
	}, nil)
	if err == nil && len(ops) > 0 {
		err = flush()
	}
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}
