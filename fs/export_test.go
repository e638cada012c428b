// SPDX-License-Identifier: Apache-2.0

package fs

// NewConn makes the Conn of a descriptor.
func NewConn(fd int) *Conn { return &Conn{fd: fd} }

// Stop makes Serve return once the requests in hand are answered, so that another server
// can go on with the connection. It does not wake the reader: that one answers one more
// request if it is parked. Requests after that stay in the kernel's queue.
func (s *Server) Stop() { s.stop.Store(true) }

// CountRead does what a server does to count a READ of 19 bytes, and nothing else.
func CountRead(s *Server) func() {
	t := newTurn(s)
	t.op, t.node = opRead, s.tree.node(NodeUptime)
	return func() {
		s.began(t)
		s.count(t, 19, nil)
	}
}
