// Package wire is the protocol between the host and PID 1 of the linux guest.
//
// It runs over one byte stream, a virtio-serial port. Each side sends frames:
//
//	byte  0     kind
//	bytes 1–3   length of the payload, little endian
//	bytes 4–7   id, little endian: of a request, or of a process
//	then        payload
//
// Payloads are written by Encoder: unsigned varints (as encoding/binary's),
// strings and lists with a varint count in front. Nothing describes itself: the
// two ends are built from the same source, and Hello's version says so.
//
//	guest                                   host
//	Hello            ────────────────────▶
//	                 ◀────────────────────  Sandbox (request), once
//	                 ◀────────────────────  Container (request), for each
//	                 ◀────────────────────  Run (request), once for each
//	Reply            ────────────────────▶
//	Data, EOF, OOM   ────────────────────▶
//	                 ◀────────────────────  Credit, Data, EOF, requests
//	Exit             ────────────────────▶
//	                 ◀────────────────────  Remove (request), of a container
//	                 ◀────────────────────  Shutdown (request), of the machine
//	Reply            ────────────────────▶
//
// # Containers
//
// A machine holds any number of containers. Sandbox is what all share: names,
// network, kernel parameters, the shared directory. A container has disks, mounts,
// processes, limits and counters of its own; requests and OOM name it by the id
// that Container gave it. It is over when its first process exits, which the guest
// makes all others do too; its root stays until Remove, and the machine until
// Shutdown, or until the host's end of the stream is closed.
//
// # Templates
//
// A machine whose state others go on from is parked before it is saved: Park in place
// of Sandbox has the guest let go of the devices that are a machine's own, and when
// the stream is closed it waits for the next host with another Hello, as in every
// machine that goes on from there. The first request is then Wake: until it is
// answered nothing is drawn at random, and the devices are not there.
//
// # Streams
//
// A process has three streams, numbered as its file descriptors. A sender of a
// stream starts with a credit of OutWindow (guest) or InWindow (host) bytes and
// may not send more than it has; the receiver gives credit back as the bytes
// reach their destination. So a slow reader stops one stream and nothing else:
// a full stream waits at its sender and never on the byte stream.
//
// The exit of a process is not held up by credit. What its pipes hold at that
// moment is sent at once, credit or not, at most ExitBurst bytes a stream; then
// Exit. A host therefore buffers at most OutWindow+ExitBurst bytes a stream.
//
// # Connections
//
// Dial has the guest connect to a server in the machine. From then on the connection
// is spoken of as a process is: Stdin is what the server is sent, Stdout what it
// sends, and EOF ends one direction. It begins with OutWindow and InWindow, too. Exit
// is its end: 0 when both directions have ended, else it was broken off, and EOF comes
// after. Any Signal breaks it off. Nothing is sent beyond the credit.
//
// # Trust
//
// The host does not trust the guest: Reader bounds each frame, decoders bound
// each list by the bytes present and never panic. The package imports little,
// for it is part of PID 1: no fmt, no reflection.
package wire
