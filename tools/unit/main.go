// Command unit runs the program of a systemd unit about as systemd would, where
// there is no systemd: in a root directory, under the unit's user, with its
// directories, credentials, limits and environment, and with a socket to notify.
// What the program notifies is printed, a line each. SIGTERM stops it as
// systemctl stop would.
//
//	unit -root DIR FILE
//
// It needs root. What it cannot do is the sandbox: mounts, namespaces and
// system call filters. A directive it does not know is an error, so that no
// unit is taken for tested that is not.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	root := flag.String("root", "", "the directory that is the program's /")
	watchdog := flag.Duration("watchdog", 0, "how often the program must live, instead of WatchdogSec")
	flag.Parse()
	if flag.NArg() != 1 || *root == "" {
		fmt.Fprintln(os.Stderr, "unit: it is `unit -root DIR FILE`")
		os.Exit(2)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	if err := run(*root, flag.Arg(0), *watchdog, stop); err != nil {
		fmt.Fprintf(os.Stderr, "unit: %s: %v\n", flag.Arg(0), err)
		os.Exit(1)
	}
}

// run returns nil when the program has ended with 0.
func run(root, file string, watchdog time.Duration, stop <-chan os.Signal) (err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	s, err := parse(string(text))
	if err != nil {
		return err
	}
	if watchdog > 0 {
		s.watchdog = watchdog
	}
	p := place{root: root, name: filepath.Base(file), service: s}
	if err := p.prepare(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.leave()) }()
	return p.play(stop)
}
