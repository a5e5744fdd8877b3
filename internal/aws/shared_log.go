package aws

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/internal/store"
)

// sharedLog is a store.Log in a table of DynamoDB. An entry is one item, which
// nothing writes that finds it there; one that does not fit has its text in
// pieces, which are written before it and count for nothing without it.
type sharedLog struct {
	sharedTable
	log   zerolog.Logger
	pause time.Duration // between the pieces of a snapshot, so that commits get through
}

var _ store.Log = sharedLog{}

const (
	// appendRest and appendRestMost bound the pause between two attempts to
	// record an entry, after the SDK's own.
	appendRest     = 100 * time.Millisecond
	appendRestMost = 2 * time.Second
	// entriesAtATime is how many entries are read at a time.
	entriesAtATime = 50
)

// Append implements store.Log.
func (l sharedLog) Append(ctx context.Context, e store.Entry) error {
	token := rand.Text()
	for rest := appendRest; ; rest = min(2*rest, appendRestMost) {
		err := l.append(ctx, e, token)
		if err == nil || errors.Is(err, store.ErrTaken) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("record entry %d: %w", e.Seq, err)
		}
		l.log.Warn().Err(err).Int64("entry", e.Seq).Msg("a commit waits for its record")
		sleep(ctx, rest)
	}
}

func (l sharedLog) append(ctx context.Context, e store.Entry, token string) error {
	i := key(partLog, order(e.Seq))
	i[attrToken], i["epoch"], i["instance"], i["schema"] = str(token), num(e.Epoch), str(e.Instance), num(int64(e.Schema))
	i["audit"], i["hash"] = num(e.Audit), bin(e.Hash)
	if len(e.Statements) <= pieceSize {
		i[attrData] = bin(e.Statements)
	} else {
		pieces, err := l.cut(ctx, partPieces, placeOfPieces(e), bytes.NewReader(e.Statements), 0)
		if err != nil {
			return err
		}
		i["pieces"] = num(int64(pieces))
	}
	ours, err := l.put(ctx, i, "attribute_not_exists("+keyPart+")", nil)
	if err == nil && !ours {
		err = store.ErrTaken
	}
	return err
}

// placeOfPieces is the leader's own: there is one leader to an epoch.
func placeOfPieces(e store.Entry) string { return order(e.Seq) + "/" + order(e.Epoch) + "/" }

// cut writes what r yields in pieces, and returns how many they are. Written
// again they are the same.
func (l sharedLog) cut(ctx context.Context, part, place string, r io.Reader, pause time.Duration) (n int, err error) {
	piece := make([]byte, pieceSize)
	for ; ; n++ {
		size, err := io.ReadFull(r, piece)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return n, err
		}
		i := key(part, place+order(int64(n)))
		i[attrData] = bin(piece[:size])
		if _, err := l.dynamo.PutItem(ctx, &dynamodb.PutItemInput{TableName: &l.name, Item: i}); err != nil {
			return n, fmt.Errorf("write %s of table %s: %w", part, l.name, err)
		}
		if n > 0 {
			sleep(ctx, pause)
		}
	}
}

// join writes pieces to w.
func (l sharedLog) join(ctx context.Context, part, place string, want int64, w io.Writer) error {
	n := int64(0)
	err := l.between(ctx, dynamodb.QueryInput{}, part, place, last(place), func(i item) (bool, error) {
		n++
		_, err := w.Write(data(i, attrData))
		return true, err
	})
	if err == nil && n != want {
		err = fmt.Errorf("%d of %d pieces are in table %s", n, want, l.name)
	}
	return err
}

// After implements store.Log.
func (l sharedLog) After(ctx context.Context, seq int64) ([]store.Entry, error) {
	var all []store.Entry
	in := dynamodb.QueryInput{Limit: new(int32(entriesAtATime))}
	err := l.between(ctx, in, partLog, order(seq+1), last(""), func(i item) (bool, error) {
		e, err := l.entry(ctx, i)
		all = append(all, e)
		return len(all) < entriesAtATime, err
	})
	return all, err
}

func (l sharedLog) entry(ctx context.Context, i item) (store.Entry, error) {
	e := store.Entry{
		Epoch: number(i, "epoch"), Instance: text(i, "instance"), Schema: int(number(i, "schema")),
		Audit: number(i, "audit"), Hash: data(i, "hash"), Statements: data(i, attrData),
	}
	if _, err := fmt.Sscanf(text(i, keyPlace), "%d", &e.Seq); err != nil {
		return e, fmt.Errorf("entry %q of table %s: %w", text(i, keyPlace), l.name, err)
	}
	pieces := number(i, "pieces")
	if pieces == 0 {
		return e, nil
	}
	var whole bytes.Buffer
	err := l.join(ctx, partPieces, placeOfPieces(e), pieces, &whole)
	e.Statements = whole.Bytes()
	return e, err
}
