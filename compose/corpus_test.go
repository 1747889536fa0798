package compose

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// corpusRoot is the folder of real projects that tests read. They are data
// from outside and not part of this repository.
func corpusRoot(t testing.TB) string {
	root := os.Getenv("GANTRY_CORPUS")
	if root == "" {
		root = "../shared/corpus"
	}
	if !filepath.IsAbs(root) {
		root = filepath.Join("..", root) // named from the repository's root
	}
	root, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(root); err != nil {
		t.Skipf("no corpus of real projects at %s: set GANTRY_CORPUS", root)
	}
	return root
}

// corpusCase is one project of the corpus, and what its readme has a user do
// before it can be loaded.
type corpusCase struct {
	files   string // separated by spaces, in one directory
	env     []string
	write   map[string]string // files beside it
	refused string            // part of the reason why it cannot load by itself
}

var corpusCases = []corpusCase{
	{files: "airflow/docker-compose.yaml"},
	{files: "authentik/docker-compose.yml"},
	{files: "awesome-apache-php/compose.yaml"},
	{files: "awesome-django/compose.yaml"},
	{files: "awesome-fastapi/compose.yaml"},
	{files: "awesome-flask-redis/compose.yaml"},
	{files: "awesome-minecraft/compose.yaml"},
	{files: "awesome-nextcloud-redis-mariadb/compose.yaml"},
	{files: "awesome-nginx-flask-mongo/compose.yaml"},
	{files: "awesome-nginx-golang-postgres/compose.yaml", write: map[string]string{"db/password.txt": "secret"}},
	{files: "awesome-nginx-golang/compose.yaml"},
	{files: "awesome-nginx-wsgi-flask/compose.yaml"},
	{files: "awesome-plex/compose.yaml"},
	{files: "awesome-postgresql-pgadmin/compose.yaml"},
	{files: "awesome-react-express-mongodb/compose.yaml"},
	{files: "awesome-react-java-mysql/compose.yaml", write: map[string]string{"db/password.txt": "secret"}},
	{files: "awesome-react-rust-postgres/compose.yaml"},
	{files: "awesome-sparkjava-mysql/compose.yaml", write: map[string]string{"db/password.txt": "secret"}},
	{files: "awesome-traefik-golang/compose.yaml"},
	{files: "awesome-wasmedge-kafka-mysql/compose.yml"},
	{files: "awesome-wireguard/compose.yaml"},
	// The production file reads an absolute path that only its installer makes.
	{files: "coolify/docker-compose.yml coolify/docker-compose.prod.yml", refused: "/data/coolify/source/.env: does not exist"},
	{files: "coolify/docker-compose.yml", refused: "neither image nor build"},
	{files: "coolify/docker-compose.prod.yml", refused: "neither image nor build"},
	{files: "dockprom/docker-compose.exporters.yml"},
	{files: "dockprom/docker-compose.yml"},
	{files: "firefly-iii/docker-compose.yml", write: map[string]string{".env": "APP_KEY=x\n", ".db.env": "MYSQL_USER=x\n"}},
	{files: "gitlab/docker-compose.yml"},
	{files: "immich/docker-compose.yml"},
	{files: "kafka-cp-all-in-one/docker-compose.yml"},
	{files: "kafka-cp-oauth/docker-compose.yml"},
	{files: "langfuse/docker-compose.yml"},
	{files: "mailcow/docker-compose.yml"},
	{files: "mastodon/docker-compose.yml"},
	{files: "mattermost/docker-compose.yml", refused: "services.mattermost.read_only"}, // without its variables
	{files: "mattermost/docker-compose.yml mattermost/docker-compose.nginx.yml", env: []string{"env.example"}},
	{files: "mattermost/docker-compose.yml mattermost/docker-compose.without-nginx.yml", env: []string{"env.example"}},
	{files: "mattermost/docker-compose.nginx.yml", refused: "empty section between colons"},
	{files: "mattermost/docker-compose.without-nginx.yml", refused: "no port specified"},
	{files: "n8n-subfolderWithSSL/docker-compose.yml"},
	{files: "n8n-withPostgresAndWorker/docker-compose.yml"},
	{files: "nextcloud-nginx-proxy/compose.yaml", write: map[string]string{"db.env": "MYSQL_USER=x\n"}},
	{files: "otel-demo/compose.yaml"},
	{files: "otel-demo/compose.yaml otel-demo/compose.full.yaml otel-demo/compose.observability.yaml"},
	{files: "otel-demo/compose.extras.yaml", refused: "is empty"},
	{files: "otel-demo/compose.full.yaml", refused: "neither image nor build"},
	{files: "otel-demo/compose.observability.yaml", refused: "neither image nor build"},
	{files: "plane/deployments/cli/community/docker-compose.yml"},
	{files: "plane/docker-compose.yml", write: map[string]string{".env": "A=b\n", "apps/api/.env": "A=b\n", "apps/web/.env": "A=b\n"}},
	{files: "portainer-extension/docker-compose.yml", env: []string{"DESKTOP_PLUGIN_IMAGE=portainer"}},
	{files: "sockshop-monitoring/docker-compose.monitoring.yml"},
	{files: "taiga/docker-compose.yml"},
	{files: "taiga/docker-compose.yml taiga/docker-compose-inits.yml"},
	{files: "taiga/docker-compose-inits.yml", refused: "undefined network taiga"},
	{files: "temporal-mysql/docker-compose-mysql.yml"},
	{files: "umami/docker-compose.yml"},
	{files: "wekan/docker-compose.yml"},
	{files: "zulip/compose.yaml", refused: "undefined secret"}, // defined in an override the user writes
}

// source is the case in a copy of its directory that has what it needs.
func (c corpusCase) source(t testing.TB, root string) Source {
	files := strings.Fields(c.files)
	from := filepath.Dir(filepath.Join(root, files[0]))
	dir := filepath.Join(t.TempDir(), filepath.Base(from))
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	for name, content := range c.write {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	src := Source{WorkDir: dir}
	for _, f := range files {
		src.Files = append(src.Files, filepath.Base(f))
	}
	for _, e := range c.env {
		if strings.Contains(e, "=") {
			src.Environ = append(src.Environ, e)
		} else {
			src.EnvFiles = append(src.EnvFiles, e)
		}
	}
	return src
}

// eachLoaded runs a test on every project of the corpus that loads.
func eachLoaded(t *testing.T, test func(*testing.T, *Project, Source)) {
	root := corpusRoot(t)
	for _, c := range corpusCases {
		if c.refused == "" {
			t.Run(c.files, func(t *testing.T) {
				src := c.source(t, root)
				p, err := Load(context.Background(), src)
				if err != nil {
					t.Fatal(err)
				}
				test(t, p, src)
			})
		}
	}
}

func TestCorpus(t *testing.T) {
	root := corpusRoot(t)
	for _, c := range corpusCases {
		t.Run(c.files, func(t *testing.T) {
			p, err := Load(context.Background(), c.source(t, root))
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Fatalf("want a refusal with %q, got %v", c.refused, err)
				}
				if strings.Contains(err.Error(), "\n") {
					t.Errorf("more than one line: %v", err)
				}
				t.Logf("refused: %v", err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			g, err := NewGraph(p)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d services, start order %v", len(p.Services), g.Order())
			for _, err := range Unsupported(p) {
				t.Logf("refused at up: %v", err)
			}
		})
	}
}

// TestCorpusComplete fails when the corpus has a file the table above leaves out.
func TestCorpusComplete(t *testing.T) {
	root := corpusRoot(t)
	var listed []string
	for _, c := range corpusCases {
		listed = append(listed, strings.Fields(c.files)...)
	}
	for _, pattern := range []string{"*/*.yml", "*/*.yaml", "*/*/*/*/*.yml", "*/*/*/*/*.yaml"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			rel, err := filepath.Rel(root, f)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(listed, rel) {
				t.Errorf("%s is not in the table", rel)
			}
		}
	}
}
