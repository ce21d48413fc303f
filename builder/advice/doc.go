// Package advice says from an image's files and configuration whether its
// program will run in a guest, and what to do when it will not. It runs nothing
// and trusts nothing: programs are only read (package elffile), and what they
// claim or name costs kilobytes.
//
// What is found of any guest is FAIL: the program, its interpreter or a library
// is missing or for another machine. A guest that runs one process (nanos) also
// fails for a shell; what merely may start another process is WARN, since many
// programs that import fork never call it.
//
// Check is for a person with an image in hand. Problem is for a runtime about to
// start a program: it reads headers alone (0.3 ms for a Python with its
// libraries) and names only what certainly fails. So a shell passes unless the
// first that it is told to do is to start another program.
package advice
