package handover

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
	maxFiles   = 8       // files that may be received in total
)

// ErrClosed is returned when the other side has closed the connection, or its process is dead.
var ErrClosed = errors.New("the other daemon went away")

// connection carries the messages and files of a handover. It has one reader and one writer.
type connection struct {
	socket *net.UnixConn
	buf    []byte
	files  []*os.File // received, and not taken yet
}

func (c *connection) close() {
	_ = c.socket.Close()
	for _, f := range c.files {
		_ = f.Close()
	}
	c.files = nil
}

// send writes one message, and sends copies of the files with it.
func (c *connection) send(limit time.Duration, msg any, files ...*os.File) error {
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
	if err := c.socket.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return closed(err)
	}
	data = append(data, '\n')
	n, _, err := c.socket.WriteMsgUnix(data, oob, nil)
	if err == nil && n < len(data) {
		_, err = c.socket.Write(data[n:])
	}
	return closed(err)
}

// receive reads one message. The files that came with it are in c.files.
func (c *connection) receive(limit time.Duration, msg any) error {
	if err := c.socket.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return closed(err)
	}
	for {
		if line, rest, ok := bytes.Cut(c.buf, []byte{'\n'}); ok {
			c.buf = rest
			if err := json.Unmarshal(line, msg); err != nil {
				return fmt.Errorf("read %T: %w", msg, err)
			}
			return nil
		}
		if len(c.buf) > maxMessage {
			return fmt.Errorf("read %T: longer than %d bytes", msg, maxMessage)
		}
		if err := c.more(); err != nil {
			return err
		}
	}
}

func (c *connection) more() error {
	b, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, _, _, err := c.socket.ReadMsgUnix(b, oob)
	if oobn > 0 {
		if ferr := c.takeFiles(oob[:oobn]); ferr != nil {
			return ferr
		}
	}
	c.buf = append(c.buf, b[:max(n, 0)]...) // -1 with an error
	if err == nil && n == 0 {
		err = io.EOF
	}
	return closed(err)
}

func (c *connection) takeFiles(oob []byte) error {
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
			c.files = append(c.files, os.NewFile(uintptr(fd), "handed over"))
		}
	}
	if len(c.files) > maxFiles {
		return fmt.Errorf("read files of a handover: got %d, want at most %d", len(c.files), maxFiles)
	}
	return nil
}

// alive reports whether the other side has the connection open, and has sent nothing.
func (c *connection) alive() bool {
	raw, err := c.socket.SyscallConn()
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

// closed returns ErrClosed for errors that mean the end of the other side, and other errors
// unchanged.
func closed(err error) error {
	for _, gone := range []error{io.EOF, unix.EPIPE, unix.ECONNRESET, net.ErrClosed} {
		if errors.Is(err, gone) {
			return ErrClosed
		}
	}
	return err
}
