package api

import (
	"strings"

	"golang.org/x/sys/unix"

	"gantry/runtime"

	"github.com/moby/moby/api/types/events"
)

func wireEvent(e runtime.Event) events.Message {
	attributes := e.Attributes
	if attributes == nil {
		attributes = map[string]string{}
	}
	return events.Message{
		Type:     events.Type(e.Type),
		Action:   events.Action(e.Action),
		Actor:    events.Actor{ID: e.ID, Attributes: attributes},
		Scope:    "local",
		Time:     e.Time.Unix(),
		TimeNano: e.Time.UnixNano(),
	}
}

// event reports whether an event passes. An object's filter takes its id or its
// name, or the beginning of either; "event" takes an action, also without what
// follows its colon ("exec_start" for "exec_start: sh").
func (f filters) event(e runtime.Event) bool {
	if !f.is("type", e.Type) || !f.is("scope", "local") || !f.labels(e.Attributes) {
		return false
	}
	verb, _, _ := strings.Cut(e.Action, ":")
	if !f.is("event", e.Action, verb) {
		return false
	}
	for _, kind := range eventKinds {
		// An image is also found in the events of its containers, and by its name
		// without the tag, as Docker does.
		if kind == "image" && (e.Type == "container" || e.Type == "image") {
			name := e.Attributes["image"]
			if e.Type == "image" {
				name = e.Attributes["name"]
			}
			bare, _, _ := strings.Cut(name, "@")
			if i := strings.LastIndexByte(bare, ':'); i > strings.LastIndexByte(bare, '/') {
				bare = bare[:i]
			}
			if !f.is(kind, name, bare) && (e.Type == "container" || !f.is(kind, e.ID)) {
				return false
			}
			continue
		}
		if len(f[kind]) == 0 {
			continue
		}
		if kind != e.Type && e.Attributes[kind] == "" {
			return false
		}
		ok := f.any(kind, func(v string) bool {
			if kind != e.Type {
				return v == e.Attributes[kind]
			}
			return strings.HasPrefix(e.ID, v) || strings.HasPrefix(e.Attributes["name"], v)
		})
		if !ok {
			return false
		}
	}
	return true
}

func uname() unix.Utsname {
	var u unix.Utsname
	_ = unix.Uname(&u) // fails on a bad pointer only
	return u
}

func kernel() string {
	u := uname()
	return unix.ByteSliceToString(u.Release[:])
}

func machine() string {
	u := uname()
	return unix.ByteSliceToString(u.Machine[:])
}
