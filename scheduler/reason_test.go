package scheduler

import "testing"

// A reason shows what was and what is, and nothing that may be a secret.
func TestReasonsHideSecrets(t *testing.T) {
	for _, tt := range []struct {
		field   string
		was, is any
		want    string
	}{
		{"environment.LOG_LEVEL", "info", "debug", `environment.LOG_LEVEL "info" → "debug"`},
		{"environment.UPSTREAM", nil, "api-of-the-second-floor-2.internal", `environment.UPSTREAM unset → "api-of-the-second-floor-2.internal"`},
		{"environment.DB_PASSWORD", "one", "two", "environment.DB_PASSWORD (hidden)"},
		{"environment.API_KEY", nil, "x", "environment.API_KEY (hidden)"},
		{"environment.DATABASE", "postgres://shop:one@db/shop", nil, "environment.DATABASE (hidden)"},
		{"environment.STRIPE", "sk_live_51HxGk2eZvKYlo2C9w8r7", nil, "environment.STRIPE (hidden)"},
		{"command", []any{"serve"}, []any{"serve", "--admin", "4f9a1c7e2b8d4f9a1c7e2b8d"}, "command (hidden)"},
		{"command", []any{"serve"}, []any{"serve", "--port", "80"}, `command ["serve"] → ["serve","--port","80"]`},
		{"image", "web:1", "registry.example/web@sha256:0123456789abcdef0123456789", `image "web:1" → "registry.example/web@sha256:0123456789abcdef0123456789"`},
		{"command", []any{"sh", "-c", "mkdir -p /w; hostname > /w/index.html; exec httpd -f -v -p 80 -h /w"},
			[]any{"sh", "-c", "mkdir -p /w; hostname > /w/index.html; exec httpd -f -p 80 -h /w"},
			`command …tml; exec httpd -f -v -p 80 -h /w"] → …tml; exec httpd -f -p 80 -h /w"]`},
		{"healthcheck.test", []any{"CMD", "curl", "-H", "Authorization: x"}, nil, "healthcheck.test (hidden)"},
	} {
		if got := changed(tt.field, tt.was, tt.is).String(); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

func TestSecretNames(t *testing.T) {
	for name, want := range map[string]bool{"KEY": true, "API_KEY": true, "key.of": true, "apikey": true, "SSH_KEY_FILE": true, "KEYBOARD": false, "MONKEYS": false,
		"monkey": true, "x9key": false, "DB_PWD": true, "Session": true, "LEVEL": false, "": false} {
		if got := secretName(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}
