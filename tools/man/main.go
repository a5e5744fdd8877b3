// Command man writes a program's manual page from its help: that of the
// program, and that of each command that its help lists, as cobra prints it.
//
//	man -version 1.2.3 -date 2026-01-31 PROGRAM >PROGRAM.1
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

func main() {
	p := page{}
	flag.StringVar(&p.version, "version", "", "the program's version")
	flag.StringVar(&p.date, "date", "", "the day of that version")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "man: it is `man -version V -date DAY PROGRAM`")
		os.Exit(2)
	}
	program := flag.Arg(0)
	p.name = filepath.Base(program)
	p.help = func(command []string) (string, error) {
		text, err := exec.Command(program, append(command, "--help")...).Output()
		return string(text), err
	}
	text, err := p.write()
	if err != nil {
		fmt.Fprintf(os.Stderr, "man: %s: %v\n", program, err)
		os.Exit(1)
	}
	fmt.Print(text)
}
