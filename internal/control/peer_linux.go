package control

import (
	"fmt"
	"net"
	"os/user"
	"strconv"
	"syscall"
)

// peerOf asks the kernel which user is at the other end of a Unix socket
// (unix(7), SO_PEERCRED).
func peerOf(conn net.Conn) string {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return ""
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return ""
	}
	var credentials *syscall.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		credentials, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err != nil || failed != nil {
		return ""
	}
	uid := strconv.FormatUint(uint64(credentials.Uid), 10)
	if u, err := user.LookupId(uid); err == nil {
		return fmt.Sprintf("uid %s (%s)", uid, u.Username)
	}
	return "uid " + uid
}
