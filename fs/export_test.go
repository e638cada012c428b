package fs

import "bytes"

// NewConn is newConn.
func NewConn(fd int, request, answer []byte) *Conn { return newConn(fd, request, answer) }

// Init returns the INIT request and its answer.
func (c *Conn) Init() (request, answer []byte) {
	return bytes.Clone(c.request), bytes.Clone(c.answer)
}

// Stop makes Serve return once the requests in hand are answered, so that another server
// can go on with the connection. It does not wake the reader: that one answers one more
// request if it is parked. Requests after that stay in the kernel's queue.
func (s *Server) Stop() { s.stop.Store(true) }
