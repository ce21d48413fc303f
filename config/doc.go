// Package config owns the settings of the runtime: the file
// /etc/uni/config.toml, its defaults, and the annotations by which one
// container deviates from it.
//
// Reading is strict. An unknown key, a value of the wrong kind or outside its
// range is an error that names the key, the line and what is allowed, and all
// errors of a file are reported at once. A Config is a plain value that nobody
// changes after Load returned it; Annotate returns a changed copy.
//
//	file ──Load──▶ Config ──Annotate(container's annotations)──▶ Config
//
// The table in keys.go is the single list of what can be set. The file
// config.toml beside it documents each key with its default; it is embedded
// (DefaultFile) so that an installer and the operator's command can write it.
package config
