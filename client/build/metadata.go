package build

import (
	"encoding/base64"
	"encoding/json"
)

// Metadata is what the exporters said, as --metadata-file has it: a value that
// is an object in base64 is an object in it.
func (r Result) Metadata() map[string]any {
	out := map[string]any{}
	for k, v := range r.Response {
		text, err := base64.StdEncoding.DecodeString(v)
		if err == nil && len(text) > 0 && text[0] == '{' && json.Valid(text) {
			out[k] = json.RawMessage(text)
			continue
		}
		out[k] = v
	}
	return out
}
