// Package inside makes a running process do system calls of our choice, and reads
// which ones its seccomp filters let it do: so a test asks from where somebody is who
// has taken the process over.
package inside
