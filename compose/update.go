package compose

import (
	"fmt"
	"slices"
	"strings"
)

// What failure_action of update_config and rollback_config may say.
const (
	FailurePause    = "pause"
	FailureContinue = "continue"
	FailureRollback = "rollback" // in update_config only
)

// checkUpdates refuses what update_config and rollback_config cannot mean.
func checkUpdates(s Service, l *locator) error {
	if s.Deploy == nil {
		return nil
	}
	for _, part := range []struct {
		key  string
		conf *UpdateConfig
		may  []string
	}{
		{"update_config", s.Deploy.UpdateConfig, []string{FailurePause, FailureContinue, FailureRollback}},
		{"rollback_config", s.Deploy.RollbackConfig, []string{FailurePause, FailureContinue}},
	} {
		wrong := func(key, cause, next string) error {
			path := []string{"services", s.Name, "deploy", part.key, key}
			return l.at(invalid(strings.Join(path, "."), cause, next), path...)
		}
		switch c := part.conf; {
		case c == nil:
		case c.FailureAction != "" && !slices.Contains(part.may, c.FailureAction):
			return wrong("failure_action", fmt.Sprintf("%q is not supported", c.FailureAction), "write "+strings.Join(part.may, " or "))
		case c.Order != "" && c.Order != "start-first" && c.Order != "stop-first":
			return wrong("order", fmt.Sprintf("%q is not supported", c.Order), "write start-first or stop-first")
		case !(c.MaxFailureRatio >= 0 && c.MaxFailureRatio <= 1): // NaN neither
			return wrong("max_failure_ratio", fmt.Sprintf("%v is no part of the replicas", c.MaxFailureRatio), "write a number from 0 to 1")
		case c.Delay < 0:
			return wrong("delay", "a time cannot be negative", "")
		case c.Monitor < 0:
			return wrong("monitor", "a time cannot be negative", "")
		}
	}
	return nil
}
