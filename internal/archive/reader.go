package archive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Read goes through a backup from its beginning to its end, hands every member
// to take, and returns the manifest once all members are what it says. Until
// Read returns nil, nothing that take was given counts: ErrDamaged is found at
// the end.
func Read(r io.Reader, take func(name string, content io.Reader) error) (Manifest, error) {
	var found []Member
	members := tar.NewReader(r)
	for {
		header, err := members.Next()
		if err != nil {
			return Manifest{}, damaged("it ends before its manifest", err)
		}
		if header.Name == manifestName {
			m, err := readManifest(members, found)
			if err != nil {
				return m, err
			}
			return m, atEnd(members, r)
		}
		member, err := readMember(header, members, take)
		if err != nil {
			return Manifest{}, err
		}
		found = append(found, member)
	}
}

// Check is Read for somebody who only wants to know whether it is whole.
func Check(r io.Reader) (Manifest, error) {
	return Read(r, func(_ string, content io.Reader) error {
		_, err := io.Copy(io.Discard, content)
		return err
	})
}

func readMember(header *tar.Header, content io.Reader, take func(string, io.Reader) error) (Member, error) {
	if err := checkName(header.Name); err != nil {
		return Member{}, err
	}
	if header.Typeflag != tar.TypeReg {
		return Member{}, damaged(header.Name+" is no file", nil)
	}
	sum := sha256.New()
	hashed := io.TeeReader(content, sum)
	switch err := take(header.Name, hashed); {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return Member{}, damaged("it ends within "+header.Name, err)
	case err != nil:
		return Member{}, fmt.Errorf("%s: %w", header.Name, err)
	}
	if _, err := io.Copy(io.Discard, hashed); err != nil {
		return Member{}, damaged("it ends within "+header.Name, err)
	}
	return Member{header.Name, header.Size, hex.EncodeToString(sum.Sum(nil))}, nil
}

func readManifest(r io.Reader, found []Member) (m Manifest, err error) {
	decoder := json.NewDecoder(io.LimitReader(r, maxManifest))
	if err := decoder.Decode(&m); err != nil {
		return m, damaged("its manifest cannot be read", err)
	}
	if len(m.Members) != len(found) {
		return m, damaged(fmt.Sprintf("its manifest names %d files and it holds %d", len(m.Members), len(found)), nil)
	}
	seen := map[string]bool{}
	for i, member := range found {
		if member != m.Members[i] || seen[member.Name] {
			return m, damaged(fmt.Sprintf("%s is not as its manifest says", member.Name), nil)
		}
		seen[member.Name] = true
	}
	if !seen[Store] {
		return m, damaged("there is no "+Store+" in it", nil)
	}
	return m, nil
}

// atEnd refuses what follows a manifest. A tar may be filled up with zeros.
func atEnd(members *tar.Reader, r io.Reader) error {
	if _, err := members.Next(); !errors.Is(err, io.EOF) {
		return damaged("something follows its manifest", err)
	}
	rest := make([]byte, 32<<10)
	for {
		n, err := r.Read(rest)
		if len(bytes.Trim(rest[:n], "\x00")) > 0 {
			return damaged("something follows its end", nil)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the backup: %w", err)
		}
	}
}

func damaged(what string, cause error) error {
	if cause == nil || errors.Is(cause, io.EOF) {
		return fmt.Errorf("%w: %s", ErrDamaged, what)
	}
	return fmt.Errorf("%w: %s: %w", ErrDamaged, what, cause)
}
