// Package nbd is an export of an NBD server as a disk.
//
// Each queue of the device has connections of its own, on the queue's ring. A request is sent as a
// header, and behind it the bytes of a write; the server answers in any order:
//
//	handler                 connection                           server
//	Start: turn to send -> SEND header  ----------------------->
//	                       SEND_ZC of the request's pages ------>
//	Sent:  next one's turn   (the kernel keeps the pages until
//	Finish, Hold             the server's side has them)
//	                       RECV of a reply's header <------------
//	Resume, Submit         RECV into the request's pages <-------
//	Finish, Answer         RECV of the next header
//
// A stream has one sender and one reader at a time. Turns to send are given in the order in which
// requests come. The reader receives exactly a header, so that the bytes of a read, which follow, can be
// received straight into the request's pages; it goes on when those are in.
//
//	                 TCP                           Unix socket, TLS
//	bytes of writes  SEND_ZC out of the pages      copied, and sent with the header
//	bytes of reads   RECV into the pages, where the kernel has that
//	                 (uring.SocketBuffers); otherwise through a buffer of the connection
//
// TLS is spoken by two goroutines of a connection, over a pair of sockets of which the ring has the
// other end.
//
// # Lost connections
//
// Whatever goes wrong on a connection ends it: an error of a socket, a server that is shutting down,
// a request that is not answered for Options.RequestTimeout, whether others are or not, and every byte
// that the protocol does not allow. A reply that the server sends twice, for a request that was never
// made, or with bytes that were not asked for, is such a byte; none of them reaches memory other than
// the pages of the request that it names.
//
//	        dialled                 error, or bytes that are wrong
//	down ------------> up ----------------------------------------> closing
//	 ^                                                                 |
//	 '----------- nothing of the connection is in flight --------------'
//
// Its requests are sent again over another connection, or the same one when it is up again. A write
// may so be done twice, which leaves the same bytes, as long as the server does nothing for a lost
// connection any more when it answers on another: the protocol has no way to call a request back, so
// a server that was stuck, and not dead, could overwrite later writes with it. When Options.Timeout has passed since a request first lost its connection, it fails
// with EIO if it has none, or once it loses another; while no server is reached for longer than that,
// requests fail at once. One that is never answered, by a server that answers others, so fails after
// twice Options.RequestTimeout.
//
// What a server has acknowledged, and not yet made durable, is lost if it dies with its cache. The
// device can't tell: its next flush is answered by the server's successor.
package nbd
