// Package image writes the images the tests, the demo and the benchmark run,
// as OCI archives that "ctr images import" reads: no registry is asked. The
// same input gives the same bytes.
//
// The format is the OCI image layout, https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md,
// in a tar file; containerd takes the image's name from the annotation
// io.containerd.image.name of the index.
package image
