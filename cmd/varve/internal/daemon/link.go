package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxMessage = 4 << 20 // bytes of one message of a handover
	maxFiles   = 8       // files that come in all
)

// errLinkClosed: the other side has closed the connection, or its process is dead.
var errLinkClosed = errors.New("the other daemon went away")

// link carries the messages of a handover, and files beside them. It has one reader and one writer.
type link struct {
	conn  *net.UnixConn
	buf   []byte
	files []*os.File // received and not taken yet
}

func (l *link) close() {
	_ = l.conn.Close()
	for _, f := range l.files {
		_ = f.Close()
	}
	l.files = nil
}

// send writes one message; the files go along, and stay the caller's too.
func (l *link) send(limit time.Duration, msg any, files ...*os.File) error {
	data, err := json.Marshal(msg)
	if err != nil {
		return fmt.Errorf("encode %T: %w", msg, err)
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	if err := l.conn.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return closed(err)
	}
	data = append(data, '\n')
	n, _, err := l.conn.WriteMsgUnix(data, oob, nil)
	if err == nil && n < len(data) {
		_, err = l.conn.Write(data[n:])
	}
	return closed(err)
}

// receive reads one message; the files that came with it are in l.files.
func (l *link) receive(limit time.Duration, msg any) error {
	if err := l.conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return closed(err)
	}
	for {
		if line, rest, ok := bytes.Cut(l.buf, []byte{'\n'}); ok {
			l.buf = rest
			if err := json.Unmarshal(line, msg); err != nil {
				return fmt.Errorf("read %T: %w", msg, err)
			}
			return nil
		}
		if len(l.buf) > maxMessage {
			return fmt.Errorf("read %T: longer than %d bytes", msg, maxMessage)
		}
		if err := l.more(); err != nil {
			return err
		}
	}
}

func (l *link) more() error {
	b, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, _, _, err := l.conn.ReadMsgUnix(b, oob)
	if oobn > 0 {
		if ferr := l.takeFiles(oob[:oobn]); ferr != nil {
			return ferr
		}
	}
	l.buf = append(l.buf, b[:max(n, 0)]...) // -1 with an error
	if err == nil && n == 0 {
		err = io.EOF
	}
	return closed(err)
}

func (l *link) takeFiles(oob []byte) error {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("read files of a handover: %w", err)
	}
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return fmt.Errorf("read files of a handover: %w", err)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			l.files = append(l.files, os.NewFile(uintptr(fd), "handed over"))
		}
	}
	if len(l.files) > maxFiles {
		return fmt.Errorf("read files of a handover: %d, and %d are the most", len(l.files), maxFiles)
	}
	return nil
}

// alive says whether the other side still has the connection open, and has said nothing meanwhile.
func (l *link) alive() bool {
	raw, err := l.conn.SyscallConn()
	if err != nil {
		return false
	}
	alive := false
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}}
		n, perr := unix.Poll(p, 0)
		alive = perr == nil && n == 0 || errors.Is(perr, unix.EINTR)
	})
	return err == nil && alive
}

// closed tells the end of the other side from other errors.
func closed(err error) error {
	for _, gone := range []error{io.EOF, unix.EPIPE, unix.ECONNRESET, net.ErrClosed} {
		if errors.Is(err, gone) {
			return errLinkClosed
		}
	}
	return err
}
