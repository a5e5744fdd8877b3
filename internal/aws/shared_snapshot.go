package aws

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"time"

	"github.com/certvendor/certvendor/internal/store"
)

// snapshotPause is between the pieces of a snapshot: two of them a second take
// up to 520 of the 1000 units that a partition has.
const snapshotPause = 500 * time.Millisecond

// Latest implements store.Log.
func (l sharedLog) Latest(ctx context.Context) (store.Snapshot, error) {
	i, err := l.get(ctx, partLatest, partLatest)
	return store.Snapshot{Log: text(i, "log"), Seq: number(i, "seq"), Size: number(i, "size")}, err
}

// Load implements store.Log.
func (l sharedLog) Load(ctx context.Context, s store.Snapshot, w io.Writer) error {
	i, err := l.get(ctx, partLatest, partLatest)
	switch {
	case err != nil:
		return err
	case number(i, "seq") != s.Seq:
		return fmt.Errorf("there is a later snapshot of %s", s.Log)
	}
	return l.join(ctx, partCopies, text(i, "copy"), number(i, "pieces"), w)
}

// Save implements store.Log. Of the snapshot before it the pieces stay, for whoever is
// reading them, and so do the entries behind that.
func (l sharedLog) Save(ctx context.Context, s store.Snapshot, r io.Reader) error {
	before, err := l.Latest(ctx)
	switch {
	case err != nil:
		return err
	case before.Log != "" && before.Seq >= s.Seq:
		return store.ErrTaken
	}
	token := rand.Text()
	place, counted := order(s.Seq)+"/"+token+"/", &counter{r: r}
	pieces, err := l.cut(ctx, partCopies, place, counted, l.pause)
	if err != nil {
		return err
	}
	i := key(partLatest, partLatest)
	i[attrToken], i["log"], i["copy"] = str(token), str(s.Log), str(place)
	i["seq"], i["size"], i["pieces"] = num(s.Seq), num(counted.n), num(int64(pieces))
	condition, values := "attribute_not_exists("+keyPart+")", item(nil)
	if before.Log != "" {
		condition, values = "seq < :seq", item{":seq": num(s.Seq)}
	}
	ours, err := l.put(ctx, i, condition, values)
	switch {
	case err != nil:
		return err
	case !ours:
		return store.ErrTaken
	case before.Log == "":
		return nil
	}
	for _, part := range []string{partLog, partPieces} {
		if err := l.drop(ctx, part, last(order(before.Seq))); err != nil {
			return err
		}
	}
	return l.drop(ctx, partCopies, order(before.Seq))
}

// counter counts what is read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
