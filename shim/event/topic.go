package event

import (
	"github.com/containerd/containerd/api/events"
	"google.golang.org/protobuf/proto"
)

// Topic returns the topic under which containerd's clients look for an event,
// or "" for a message that is none. The names are those of containerd's
// core/runtime/events.go.
func Topic(e proto.Message) string {
	switch e.(type) {
	case *events.TaskCreate:
		return "/tasks/create"
	case *events.TaskStart:
		return "/tasks/start"
	case *events.TaskOOM:
		return "/tasks/oom"
	case *events.TaskExit:
		return "/tasks/exit"
	case *events.TaskDelete:
		return "/tasks/delete"
	case *events.TaskExecAdded:
		return "/tasks/exec-added"
	case *events.TaskExecStarted:
		return "/tasks/exec-started"
	case *events.TaskPaused:
		return "/tasks/paused"
	case *events.TaskResumed:
		return "/tasks/resumed"
	default:
		return ""
	}
}
