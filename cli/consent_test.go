package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"gantry/client"
	"gantry/scheduler"

	"golang.org/x/sys/unix"
)

// answering is a terminal at which somebody types; said is what it has shown.
func answering(t *testing.T, typed string) (tty *os.File, said func() string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("needs pseudo terminals: %v", err)
	}
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		tty, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err == nil {
		_, err = master.WriteString(typed)
	}
	if err != nil {
		t.Skipf("needs pseudo terminals: %v", err)
	}
	t.Cleanup(func() { tty.Close(); master.Close() })
	return tty, func() string {
		if _, err := tty.WriteString("\x00"); err != nil { // there is something to read, always
			t.Fatal(err)
		}
		buf := make([]byte, 1<<16)
		text := ""
		for !strings.Contains(text, "\x00") {
			n, err := master.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			text += string(buf[:n])
		}
		return text
	}
}

// What destroys data is asked at a terminal and refused elsewhere, unless it was
// said; nothing is sent before.
func TestConsent(t *testing.T) {
	const file = "name: shop\nservices: {db: {image: db, volumes: [\"data:/d\"]}}\nvolumes: {data: {driver_opts: {type: tmpfs, device: tmpfs}}}\n"
	d := newDaemon(t)
	d.say("GET /images/db/json", map[string]any{"Id": "sha256:1"})
	hash := "another"
	d.answers["GET /volumes"] = func(w http.ResponseWriter, _ *http.Request) {
		writeValue(w, map[string]any{"Volumes": []client.Volume{{Name: "shop_data", Labels: map[string]string{
			scheduler.LabelProject: "shop", scheduler.LabelVolume: "data", scheduler.LabelHash: hash, scheduler.LabelVersion: "2.0.0"}}}})
	}
	const loses = `{"project":"shop","steps":[{"id":1,"verb":"remove","kind":"volume","name":"shop_data","text":"remove volume shop_data","why":"driver_opts","destroys":"all data in volume shop_data"},` +
		`{"id":2,"verb":"replace","kind":"container","name":"shop-db-1","service":"db","text":"replace shop-db-1","why":"x","destroys":"all data in the anonymous volumes of shop-db-1"}]}`
	var planned int
	d.answers["POST /projects/shop/plan"] = func(w http.ResponseWriter, r *http.Request) {
		planned++
		fmt.Fprint(w, loses)
	}
	var applied []scheduler.Goal
	d.answers["PUT /projects/shop"] = func(w http.ResponseWriter, r *http.Request) {
		var g scheduler.Goal
		if err := json.NewDecoder(r.Body).Decode(&g); err != nil {
			t.Errorf("the goal cannot be read: %v", err)
		}
		applied = append(applied, g)
		fmt.Fprintln(w, `{"Result":{"Status":200}}`)
	}
	downs := 0
	d.answers["DELETE /projects/shop"] = func(w http.ResponseWriter, r *http.Request) {
		downs++
		fmt.Fprintf(w, `{"Event":{"plan":%s}}`+"\n"+`{"Result":{"Status":200}}`+"\n", loses)
	}
	path := composeFile(t, file)
	for _, tt := range []struct {
		args, typed string // "": no terminal
		code        int
		says        string
		renews      bool // a goal was sent that lets the volume go
		asked       bool
	}{
		{"up -d", "", 1, "project shop: this destroys all data in volume shop_data (driver_opts): say --yes to lose it", false, false},
		{"create", "", 1, "say --yes", false, false},
		{"up -d -y", "", 0, "", true, false},
		{"up -d", "n\n", 1, "nothing was changed", false, true},
		{"up -d", "\n", 1, "nothing was changed", false, true},
		{"up -d", "y\n", 0, "This destroys all data in volume shop_data (driver_opts)", true, true},
		{"up -d --yes", "n\n", 0, "", true, false},
		{"down -v", "", 0, "", false, false}, // it is said
		{"down -v", "n\n", 1, "This destroys all data in the anonymous volumes of shop-db-1", false, true},
		{"down -v", "y\n", 0, "This destroys all data in volume shop_data", false, true},
		{"down -v -y", "n\n", 0, "", false, false},
		{"down", "n\n", 0, "", false, false},
	} {
		applied, downs = nil, 0
		args := append([]string{"--host", d.host, "-f", path, "--progress", "quiet"}, strings.Fields(tt.args)...)
		var code int
		var said string
		if tt.typed == "" {
			r := run(t, nil, args...)
			code, said = r.code, r.err
		} else {
			tty, screen := answering(t, tt.typed)
			a := &app{in: tty, out: tty, err: tty, env: func(string) string { return "" }, environ: []string{}}
			code = a.run(t.Context(), args)
			said = screen()
		}
		if code != tt.code || !strings.Contains(said, tt.says) || strings.Contains(said, "Go on and lose it?") != tt.asked {
			t.Errorf("%s, typing %q: code %d, %q", tt.args, tt.typed, code, said)
		}
		up := !strings.HasPrefix(tt.args, "down")
		if sent := len(applied) + downs; (sent == 1) != (tt.code == 0) {
			t.Errorf("%s, typing %q: %d calls that change something", tt.args, tt.typed, sent)
		}
		if up && tt.code == 0 && len(applied) == 1 && applied[0].Options.RenewVolumes != tt.renews {
			t.Errorf("%s, typing %q: goal %+v", tt.args, tt.typed, applied[0].Options)
		}
	}
	// A volume that has not changed costs no plan, and one that Docker Compose
	// has made cannot be compared.
	planned = 0
	hash = ""
	if r := run(t, nil, "--host", d.host, "-f", path, "up", "-d"); r.code != 0 || planned != 0 {
		t.Errorf("%d plans, %+v", planned, r)
	}
}
