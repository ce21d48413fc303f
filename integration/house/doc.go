// Package house holds the rules of the repository that a machine can check, as
// tests: formatting, vet, staticcheck, who may import whom, and a doc.go in
// every package.
package house
