package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// envPrefix begins the name of every variable that overrides a key.
const envPrefix = "CERTVENDOR_"

// Load reads the file at path over the defaults, then the overrides in
// environ, which is of the form os.Environ returns, makes relative paths
// relative to the file, and validates the whole. A missing file is an error,
// and so is a variable that begins with CERTVENDOR_ and overrides nothing.
// Each line of the error names one problem.
func Load(path string, environ []string) (Config, error) {
	config := Default()
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return config, fmt.Errorf("no configuration at %s: name one with --config", path)
	case err != nil:
		return config, fmt.Errorf("read configuration: %w", err)
	}
	if err := decode(text, &config); err != nil {
		return config, Located(path, err)
	}
	env := environment(environ)
	if err := override(&config, env); err != nil {
		return config, err
	}
	base, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return config, fmt.Errorf("read configuration: %w", err)
	}
	config.bind(base, env)
	if err := config.Validate(); err != nil {
		return config, Located(path, err)
	}
	return config, nil
}

// Located writes an error as file:line:column: text, or file: text; each line
// of it, where it has several.
func Located(path string, err error) error {
	var p *problem
	if errors.As(err, &p) && p.line > 0 {
		return fmt.Errorf("%s:%w", path, err)
	}
	var lines []error
	for line := range strings.Lines(err.Error()) {
		lines = append(lines, fmt.Errorf("%s: %s", path, strings.TrimSpace(line)))
	}
	return errors.Join(lines...)
}

// EnvName returns the name of the variable that overrides a dotted key.
func EnvName(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

func override(config *Config, env map[string]string) error {
	unknown := map[string]string{}
	for name, value := range env {
		if strings.HasPrefix(name, envPrefix) {
			unknown[name] = value
		}
	}
	var problems []error
	for key, field := range leaves(config) {
		value, ok := unknown[EnvName(key)]
		if !ok {
			continue
		}
		delete(unknown, EnvName(key))
		if err := set(field, value); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", EnvName(key), err))
		}
	}
	for name := range unknown {
		problems = append(problems, fmt.Errorf("%s: overrides no key of the configuration", name))
	}
	slices.SortFunc(problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(problems...)
}

func environment(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, entry := range environ {
		if name, value, ok := strings.Cut(entry, "="); ok {
			env[name] = value
		}
	}
	return env
}

// bind makes what depends on the place of the file and on the environment
// independent of both.
func (c *Config) bind(base string, env map[string]string) {
	for _, path := range []*string{
		&c.Control.Socket, &c.Standalone.Data, &c.Standalone.ServerCertificate, &c.Standalone.ServerKey,
		&c.Standalone.ServerCA, &c.Control.TLS.Certificate, &c.Control.TLS.Key,
		&c.AWS.Data, &c.AWS.Broker.Certificate, &c.AWS.Broker.Key, &c.AWS.Broker.CA,
		&c.Webhook.CA, &c.Approval.CA,
	} {
		*path = absolute(base, *path)
	}
	for _, paths := range [][]string{c.Standalone.ClientCA, c.Control.TLS.ClientCA} {
		for i, path := range paths {
			paths[i] = absolute(base, path)
		}
	}
	c.CA.Passphrase.bind(base, env)
	c.AWS.Broker.RuleKey.bind(base, env)
	c.Webhook.Secret.bind(base, env)
	c.Approval.Token.bind(base, env)
}

func absolute(base, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(base, path)
}
