package compose

import (
	"context"
	"testing"
)

const threeServices = `services:
  web: {image: nginx, ports: ["8080:80"], depends_on: [app]}
  app: {image: app, environment: {A: b}, depends_on: {db: {condition: service_healthy}}}
  db: {image: postgres, volumes: ["data:/var/lib"], healthcheck: {test: "pg_isready", interval: 1s}}
volumes: {data: {}}
`

func BenchmarkLoad(b *testing.B) {
	src := Source{WorkDir: project(b, threeServices)}
	for b.Loop() {
		if _, err := Load(context.Background(), src); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkConforms is the part of Load that stands in for compiling the JSON
// schema.
func BenchmarkConforms(b *testing.B) {
	in, err := open(b.Context(), Source{WorkDir: project(b, threeServices)})
	if err != nil {
		b.Fatal(err)
	}
	model, _, err := in.merge(context.Background(), false)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if !conforms(parseSchema(), model) {
			b.Fatal("a good project is doubted")
		}
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	p := mustLoad(b, threeServices)
	for b.Loop() {
		data, err := Encode(p)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Decode(data); err != nil {
			b.Fatal(err)
		}
	}
}
