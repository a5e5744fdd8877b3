package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/archive"
	"github.com/certvendor/certvendor/internal/control"
)

// backedUp is what `backup --json` prints.
type backedUp struct {
	File   string `json:"file"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	archive.Manifest
}

func (c *cli) backup() *cobra.Command {
	var out string
	var withoutKeys bool
	cmd := &cobra.Command{
		Use: "backup --out FILE", Short: "Write all that is durable to one file, while the daemon runs", Args: cobra.NoArgs,
		Long: `Write all that is durable to one file, while the daemon runs.

In the file are a copy of the store as of one moment, the CA's certificates and
keys as they are on disk (encrypted, if ca.passphrase is set), the packages that
were not used yet, and the key of their links. Whoever has it can make
certificates: keep it like the CA. With --without-keys nothing private is in it;
a restore then needs the CA's keys in the data directory.

With backend aws the store is all there is: no key is in it, with or without
--without-keys. Keep the configuration, and the key of aws.broker.rule_key,
elsewhere. An instance that stands by makes no backup.

certvendor restore goes on from it with the files of the audit, which are not in
it: ship those to another machine as they grow.`,
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, _ []string) error {
			if out == "" {
				return errors.New("backup: give --out, the file to write")
			}
			b, err := writeBackup(ctx, daemon, out, !withoutKeys)
			if err != nil {
				return fmt.Errorf("backup to %s: %w", out, err)
			}
			b.Members = nil
			return c.print(b, func(w io.Writer) { tellBackup(w, b) })
		}),
	}
	cmd.Flags().StringVar(&out, "out", "", "the file to write; it must not be there")
	cmd.Flags().BoolVar(&withoutKeys, "without-keys", false, "leave out the CA's keys, the packages and the key of their links")
	return cmd
}

func tellBackup(w io.Writer, b backedUp) {
	fmt.Fprintf(w, "%s: %d octets, the store up to row %d of the audit\nsha256 %s\n", b.File, b.Size, b.AuditRow, b.SHA256)
	if b.Keys {
		fmt.Fprintln(w, "The CA's keys are in it, and the packages with theirs: keep it like the CA itself.")
		return
	}
	if b.Backend != "" {
		fmt.Fprintln(w, "No keys are in it: keep the configuration, and the key of aws.broker.rule_key, elsewhere.")
		return
	}
	fmt.Fprintln(w, "No keys are in it: keep those of the CA elsewhere, or nothing can be restored from it.")
}

// writeBackup writes a backup beside its name and gives it the name once it is
// whole, by its own manifest, and durable.
func writeBackup(ctx context.Context, daemon *control.Client, path string, keys bool) (b backedUp, err error) {
	if _, err := os.Lstat(path); err == nil {
		return b, errors.New("the file is there already; name another")
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".backup-*") // with mode 0600
	if err != nil {
		return b, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name()) // it may have its name already
		}
	}()
	b.File = path
	err = daemon.Backup(ctx, keys, file)
	if err == nil {
		err = b.read(file)
	}
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return b, err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return b, err
	}
	return b, syncDirectory(filepath.Dir(path))
}

// read reads the backup that was written, from its beginning.
func (b *backedUp) read(file *os.File) (err error) {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	sum := sha256.New()
	if b.Manifest, err = archive.Check(io.TeeReader(file, sum)); err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	b.Size, b.SHA256 = info.Size(), hex.EncodeToString(sum.Sum(nil))
	return nil
}

func syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
