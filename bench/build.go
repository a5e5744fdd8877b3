package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The peers, at the versions that are measured.
const (
	stepCAVersion = "v0.30.2"
	cfsslVersion  = "v1.6.5" // the last one that this Go builds
	pemVersion    = "1.14.8"
)

// programs are the programs that are measured; a peer that is not there is
// empty.
type programs struct{ certvendor, stepCA, cfssl, pem string }

// build builds what is not there, and certvendor always, below dir/bin. Short
// of peers, it takes those that are there already.
func build(ctx context.Context, dir string, peers bool) (p programs, err error) {
	bin := filepath.Join(dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return p, err
	}
	p.certvendor = filepath.Join(bin, "certvendor")
	if err := run(ctx, filepath.Dir(dir), []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-o", p.certvendor, "./cmd/certvendor"); err != nil {
		return p, err
	}
	for _, peer := range []struct {
		into    *string
		path    string
		install func(into string) error
	}{
		{&p.stepCA, filepath.Join(bin, "step-ca-"+stepCAVersion), goInstall(ctx, "0", "github.com/smallstep/certificates/cmd/step-ca@"+stepCAVersion)},
		{&p.cfssl, filepath.Join(bin, "cfssl-"+cfsslVersion), goInstall(ctx, "1", "github.com/cloudflare/cfssl/cmd/cfssl@"+cfsslVersion)},
		{&p.pem, filepath.Join(bin, "pem-"+pemVersion), npmInstall(ctx)},
	} {
		_, err := os.Stat(peer.path)
		if errors.Is(err, fs.ErrNotExist) && peers {
			fmt.Fprintf(os.Stderr, "bench: building %s\n", filepath.Base(peer.path))
			err = peer.install(peer.path)
		}
		switch {
		case err == nil:
			*peer.into = peer.path
		case peers:
			return p, err
		}
	}
	return p, nil
}

// goInstall returns what installs a command at a version to a path.
func goInstall(ctx context.Context, cgo, what string) func(string) error {
	return func(into string) error {
		dir := filepath.Dir(into)
		if err := run(ctx, dir, []string{"CGO_ENABLED=" + cgo, "GOBIN=" + dir, "GOFLAGS="}, "go", "install", what); err != nil {
			return err
		}
		name, _, _ := strings.Cut(filepath.Base(what), "@")
		return os.Rename(filepath.Join(dir, name), into)
	}
}

// npmInstall returns what installs the original's signing library to a path.
func npmInstall(ctx context.Context) func(string) error {
	return func(into string) error {
		begun := into + ".begun"
		if err := os.MkdirAll(begun, 0o755); err != nil {
			return err
		}
		if err := run(ctx, begun, nil, "npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", begun, "pem@"+pemVersion); err != nil {
			return err
		}
		return os.Rename(begun, into)
	}
}

// run runs a command that prints to our standard error.
func run(ctx context.Context, dir string, environment []string, command string, args ...string) error {
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, os.Stderr, os.Stderr
	cmd.Env = append(os.Environ(), environment...)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", command, strings.Join(args, " "), err)
	}
	return nil
}

// describe names the state of the sources.
func describe(ctx context.Context, here string) string {
	out, err := exec.CommandContext(ctx, "git", "-C", here, "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
