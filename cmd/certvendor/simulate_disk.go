package main

import "os"

// diskSize is what a device's disk is taken to need, in octets: two pairs, its
// state and what replaces one of them, a page and an inode each, twice over.
const diskSize = 64 << 10

// makeDisks makes the directory of the devices' disks: in memory, where that
// has room for them and nobody wants to keep them. A rotation writes to its
// device's disk a dozen times, synced each time; a fleet has as many disks as
// devices, and here they would all be the daemon's one.
func (s *simulation) makeDisks() (string, error) {
	const pattern = "certvendor-simulate-"
	if memory := memoryWithRoom(s.flags.devices * diskSize); memory != "" && !s.flags.keep {
		if dir, err := os.MkdirTemp(memory, pattern); err == nil {
			return dir, nil
		}
	}
	return os.MkdirTemp("", pattern)
}
