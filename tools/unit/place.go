package main

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// place is where a unit's program runs.
type place struct {
	root, name string // the program's /, and the unit's file name
	service    service

	uid, gid    int
	home        string
	environment []string
}

// prepare makes what the program finds when it starts: its user and its
// directories, as systemd.exec(5) describes them.
func (p *place) prepare() error {
	s := p.service
	if err := p.identify(); err != nil {
		return err
	}
	p.environment = append(p.environment, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8")
	if p.home != "" {
		p.environment = append(p.environment, "HOME="+p.home, "USER="+s.user, "LOGNAME="+s.user)
	}
	return errors.Join(p.makeState(), p.makeRuntime(), p.loadCredentials(), p.findConfiguration())
}

// identify finds the user and the group in the root directory's own files.
func (p *place) identify() (err error) {
	s := p.service
	if s.dynamic {
		// systemd takes one of 61184 to 65519 that is free, by the unit's name.
		h := fnv.New32a()
		h.Write([]byte(p.name))
		p.uid = 61184 + int(h.Sum32()%(65519-61184+1))
		p.gid, p.home = p.uid, "/"
		return nil
	}
	if s.user == "" {
		return nil
	}
	fields, err := p.account("passwd", s.user, 7)
	if err != nil {
		return err
	}
	p.home = fields[5]
	if p.uid, err = strconv.Atoi(fields[2]); err != nil {
		return err
	}
	group := fields[3]
	if s.group != "" {
		if fields, err = p.account("group", s.group, 4); err != nil {
			return err
		}
		group = fields[2]
	}
	p.gid, err = strconv.Atoi(group)
	return err
}

// account returns the line of a name in /etc/passwd or /etc/group.
func (p *place) account(file, name string, fields int) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(p.root, "etc", file))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		if found := strings.Split(strings.TrimSpace(line), ":"); len(found) == fields && found[0] == name {
			return found, nil
		}
	}
	return nil, fmt.Errorf("%q is not in /etc/%s", name, file)
}

// makeState makes the state directory. That of a dynamic user lies in
// /var/lib/private, with a link from /var/lib. systemd lets only root into
// private, and mounts what is in it for the program; here all may pass it.
func (p *place) makeState() error {
	d := p.service.state
	if d.name == "" {
		return nil
	}
	p.environment = append(p.environment, "STATE_DIRECTORY="+path.Join("/var/lib", d.name))
	lib := filepath.Join(p.root, "var/lib")
	if !p.service.dynamic {
		return p.own(filepath.Join(lib, d.name), d.mode)
	}
	if err := os.MkdirAll(filepath.Join(lib, "private"), 0o711); err != nil {
		return err
	}
	if err := os.Symlink(path.Join("private", d.name), filepath.Join(lib, d.name)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return p.own(filepath.Join(lib, "private", d.name), d.mode)
}

func (p *place) makeRuntime() error {
	d := p.service.runtime
	if d.name == "" {
		return nil
	}
	p.environment = append(p.environment, "RUNTIME_DIRECTORY="+path.Join("/run", d.name))
	return p.own(filepath.Join(p.root, "run", d.name), d.mode)
}

// own makes a directory that is the user's.
func (p *place) own(directory string, mode os.FileMode) error {
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return err
	}
	return errors.Join(os.Chmod(directory, mode), os.Chown(directory, p.uid, p.gid))
}

// loadCredentials copies what only root can read to where only the user can.
func (p *place) loadCredentials() error {
	if len(p.service.credentials) == 0 {
		return nil
	}
	inside := path.Join("/run/credentials", p.name)
	p.environment = append(p.environment, "CREDENTIALS_DIRECTORY="+inside)
	directory := filepath.Join(p.root, inside)
	if err := p.own(directory, 0o700); err != nil {
		return err
	}
	for name, file := range p.service.credentials {
		secret, err := os.ReadFile(filepath.Join(p.root, file))
		if err != nil {
			return fmt.Errorf("credential %s: %w", name, err)
		}
		copied := filepath.Join(directory, name)
		if err := os.WriteFile(copied, secret, 0o400); err != nil {
			return err
		}
		if err := os.Chown(copied, p.uid, p.gid); err != nil {
			return err
		}
	}
	return os.Chmod(directory, 0o500)
}

func (p *place) findConfiguration() error {
	if p.service.configuration == "" {
		return nil
	}
	inside := path.Join("/etc", p.service.configuration)
	p.environment = append(p.environment, "CONFIGURATION_DIRECTORY="+inside)
	return os.MkdirAll(filepath.Join(p.root, inside), 0o755)
}

// leave takes away what does not outlive the program.
func (p *place) leave() error {
	err := os.RemoveAll(filepath.Join(p.root, "run/credentials", p.name))
	if p.service.runtime.name != "" {
		err = errors.Join(err, os.RemoveAll(filepath.Join(p.root, "run", p.service.runtime.name)))
	}
	return err
}
