package compose

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestUpdateConfigIsChecked(t *testing.T) {
	for text, want := range map[string]string{
		"update_config: {failure_action: rollback, max_failure_ratio: 0.3, monitor: 5s, delay: 1s, parallelism: 0}": "",
		"rollback_config: {failure_action: continue, order: stop-first}":                                            "",
		"rollback_config: {failure_action: rollback}":                                                               "rollback_config.failure_action",
		"update_config: {failure_action: give-up}":                                                                  "update_config.failure_action",
		"update_config: {max_failure_ratio: 1.5}":                                                                   "update_config.max_failure_ratio",
		"update_config: {max_failure_ratio: -0.5}":                                                                  "update_config.max_failure_ratio",
	} {
		_, err := load(t, "services:\n  web:\n    image: a\n    deploy:\n      "+text+"\n")
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", text, err)
		case want != "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "services.web.deploy."+want)):
			t.Errorf("%s: %v; want a refusal of %s", text, err, want)
		}
	}
}
