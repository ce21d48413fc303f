package image

import (
	"bytes"
	"encoding/json"
)

// maxElements bounds the objects and the elements of lists and objects in a
// document: an empty descriptor takes three bytes in an index and 250 of memory.
const maxElements = 256 << 10

// unmarshal decodes a document that is not trusted. The error is
// unikernel.ErrInvalid.
func unmarshal(data []byte, v any) error {
	// Each element but the first follows a comma. Those in texts count as well:
	// the bound is far from what documents have.
	if n := bytes.Count(data, []byte{','}) + bytes.Count(data, []byte{'{'}); n > maxElements {
		return invalid("a document of more than %d elements", maxElements)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return invalid("%v", err)
	}
	return nil
}
