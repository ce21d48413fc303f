// Package acl gives a user access to a file beside its owner, and takes it again,
// by an entry in the file's access list (acl(5)).
package acl
