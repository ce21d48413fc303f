// Package kernels keeps the kernels of the guest "nanos" that an operator
// installs: releases of Nanos, which are no part of this project. It looks at
// them before they are installed, and knows their digests afterwards.
//
// A Store owns one directory, <data_dir>/kernels/nanos:
//
//	VERSION/{boot.img,kernel.img,klibs/}  a release, never changed
//	VERSION/manifest.json                 its digests, where it came from and when
//	current -> VERSION                    what boots unless configured otherwise
//	lock                                  held by whoever changes something here
//	.*.tmp                                unfinished; removed by the next who has the lock
//
// What makes it safe to be killed at any time: an archive arrives in a file
// without a name, a release is unpacked into a temporary directory and appears
// by one rename, and "current" is replaced by one rename. Nothing is held while
// something arrives from a network.
//
// A running machine does not mind any of it: QEMU has read its kernel, and the
// cache of disks is keyed by the digests of both files.
//
// Releases are where ops, the tool of the authors of Nanos, takes them from:
// lepton/const.go of github.com/nanovms/ops. They publish an MD5 beside each
// archive (release.sh of github.com/nanovms/nanos), which finds damage and no
// forgery, and no signature. Who wants more gives the SHA-256 that is expected.
package kernels
