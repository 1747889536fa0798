// Command shop is the web application of the example: items in PostgreSQL, a
// count of visits in Redis.
//
//	shop           serve on :8080
//	shop migrate   prepare the tables and end
//	shop check     ask a running shop whether it is well
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/gomodule/redigo/redis"
	_ "github.com/lib/pq"
)

func main() {
	log.SetFlags(0)
	verb := "serve"
	if len(os.Args) > 1 {
		verb = os.Args[1]
	}
	verbs := map[string]func(context.Context) error{"serve": serve, "migrate": migrate, "check": check}
	run, ok := verbs[verb]
	if !ok {
		log.Fatalf("shop: %q is none of serve, migrate, check", verb)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatalf("shop: %s: %v", verb, err)
	}
}

func database() (*sql.DB, error) {
	password, err := os.ReadFile(os.Getenv("DB_PASSWORD_FILE"))
	if err != nil {
		return nil, err
	}
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(os.Getenv("DB_USER"), strings.TrimSpace(string(password))),
		Host:     os.Getenv("DB_HOST"),
		Path:     os.Getenv("DB_NAME"),
		RawQuery: "sslmode=disable&connect_timeout=3",
	}
	return sql.Open("postgres", u.String())
}

func migrate(ctx context.Context) error {
	db, err := database()
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS items (
		id bigserial PRIMARY KEY, name text NOT NULL, made timestamptz NOT NULL DEFAULT now())`)
	if err == nil {
		log.Print("tables are ready")
	}
	return err
}

func check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:8080/health", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// shop answers requests.
type shop struct {
	db       *sql.DB
	cache    *redis.Pool
	name     string
	greeting string
}

// cache keeps connections. One whose server has died meanwhile is not given out.
func cache(address string) *redis.Pool {
	return &redis.Pool{
		MaxIdle:     16,
		IdleTimeout: time.Minute,
		DialContext: func(ctx context.Context) (redis.Conn, error) {
			return redis.DialContext(ctx, "tcp", address, redis.DialConnectTimeout(2*time.Second))
		},
		TestOnBorrowContext: func(ctx context.Context, c redis.Conn, _ time.Time) error {
			_, err := redis.DoContext(c, ctx, "PING")
			return err
		},
	}
}

func serve(ctx context.Context) error {
	db, err := database()
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(8)
	name, _ := os.Hostname()
	s := &shop{db: db, cache: cache(os.Getenv("CACHE_ADDR")), name: name, greeting: "Hello"}
	// A shop without a greeting of its own (Docker Compose 1 knows no configs)
	// opens all the same.
	if text, err := os.ReadFile("/etc/shop/greeting"); err == nil {
		s.greeting = strings.TrimSpace(string(text))
	}
	defer s.cache.Close()

	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.home)
	mux.HandleFunc("GET /health", s.health)
	mux.HandleFunc("GET /items", s.list)
	mux.HandleFunc("POST /items", s.add)
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		server.Shutdown(grace)
	}()
	log.Printf("%s serves on :8080", name)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *shop) home(w http.ResponseWriter, r *http.Request) {
	visits, err := s.visits(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	fmt.Fprintf(w, "%s from %s. You are visitor %d.\n", s.greeting, s.name, visits)
}

// visits counts one more.
func (s *shop) visits(ctx context.Context) (int, error) {
	conn, err := s.cache.GetContext(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return redis.Int(redis.DoContext(conn, ctx, "INCR", "visits"))
}

func (s *shop) health(w http.ResponseWriter, r *http.Request) {
	if err := s.db.PingContext(r.Context()); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	}
}

type item struct {
	ID   int64     `json:"id"`
	Name string    `json:"name"`
	Made time.Time `json:"made"`
}

func (s *shop) list(w http.ResponseWriter, r *http.Request) {
	rows, err := s.db.QueryContext(r.Context(), `SELECT id, name, made FROM items ORDER BY id DESC LIMIT 100`)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer rows.Close()
	items := []item{}
	for rows.Next() {
		var i item
		if err := rows.Scan(&i.ID, &i.Name, &i.Made); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		items = append(items, i)
	}
	if err := rows.Err(); err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(items)
}

func (s *shop) add(w http.ResponseWriter, r *http.Request) {
	name := r.FormValue("name")
	if name == "" || len(name) > 200 {
		http.Error(w, "name: between 1 and 200 characters", http.StatusBadRequest)
		return
	}
	var id int64
	err := s.db.QueryRowContext(r.Context(), `INSERT INTO items (name) VALUES ($1) RETURNING id`, name).Scan(&id)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, "%d\n", id)
}
