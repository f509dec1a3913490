package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// attack is what must never run in the page: as an element, out of an attribute, and
// out of a script.
const attack = `<img src=x onerror=window.pwned=1><script>window.pwned=1</script>"'onmouseover=window.pwned=1 x='</textarea></pre>`

// inspection is a node, an agent that serves one http endpoint, and its local address.
type inspection struct {
	*node
	agent  *process
	url    string // of the endpoint
	api    string // http://127.0.0.1:…, without a slash
	shop   *shop
	client *http.Client
}

// inspect starts all of it.
func inspect(t *testing.T, flags ...string) *inspection {
	t.Helper()
	i := &inspection{node: startServer(t), shop: newShop(t)}
	args := append([]string{"http", i.shop.Listener.Addr().String(), "--name", "shop", "--api", "127.0.0.1:0"}, flags...)
	i.agent, i.url = i.publish(args...)
	l, _ := i.agent.wait(0, "local API ready", msg("local API ready"))
	i.api = strings.TrimSuffix(l.str("url"), "/")
	i.client = i.visitor(false)
	return i
}

// shop is an upstream of the kind that people build.
type shop struct {
	*httptest.Server
	release chan struct{} // ends the stream of prices
}

func newShop(t *testing.T) *shop {
	s := &shop{release: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/orders", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, `{"total":2,"orders":[{"id":4711,"customer":"Ada Lovelace","items":[{"sku":"TEA-EARL","qty":2,"price":9.5}],"paid":true,"note":null},{"id":4712,"customer":"Grace Hopper","items":[{"sku":"MUG-NAVY","qty":1,"price":14}],"paid":false,"note":"gift wrap"}]}`)
		_ = z.Close()
	})
	mux.HandleFunc("POST /webhooks/payment", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Set-Cookie", "session=topsecret; Path=/; HttpOnly")
		w.WriteHeader(http.StatusAccepted)
		_, _ = fmt.Fprintf(w, `{"received":%d,"access_token":"answer-secret"}`, len(body))
	})
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/account?token=redirect-secret", http.StatusSeeOther)
	})
	mux.HandleFunc("POST /upload", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated) })
	mux.HandleFunc("GET /logo.png", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "image/png")
		_, _ = w.Write(logo())
	})
	mux.HandleFunc("GET /feed.xml", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/xml")
		_, _ = io.WriteString(w, `<?xml version="1.0"?><feed><entry id="1"><title>New teas</title></entry></feed>`)
	})
	mux.HandleFunc("DELETE /api/orders/{id}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, `{"error":"the warehouse does not answer","retry":false}`)
	})
	mux.HandleFunc("GET /prices", s.prices)
	mux.HandleFunc("GET /support", s.support)
	mux.HandleFunc("/attack", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("X-Attack", attack)
		_, _ = io.WriteString(w, attack)
	})
	s.Server = httptest.NewServer(mux)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// prices is an event stream.
func (s *shop) prices(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for i, p := range []string{"9.50", "9.45", "9.60", "9.75", "9.70"} {
		_, _ = fmt.Fprintf(w, "id: %d\nevent: price\ndata: {\"sku\":\"TEA-EARL\",\"price\":%s}\n\n", i+1, p)
		_ = http.NewResponseController(w).Flush()
	}
	select {
	case <-s.release:
	case <-r.Context().Done():
	}
}

// support is a WebSocket that repeats what it hears.
func (s *shop) support(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: websocket.CompressionContextTakeover, CompressionThreshold: 1})
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		kind, b, err := c.Read(r.Context())
		if err != nil {
			return
		}
		_ = c.Write(r.Context(), kind, bytes.ReplaceAll(b, []byte(`"ask"`), []byte(`"answer"`)))
	}
}

// logo is a small picture.
func logo() []byte {
	m := image.NewRGBA(image.Rect(0, 0, 240, 120))
	for y := range 120 {
		for x := range 240 {
			dx, dy := float64(x-120), float64(y-110)
			r := dx*dx + dy*dy
			c := color.RGBA{246, 248, 247, 255}
			switch {
			case r < 90*90 && r > 74*74 && y < 110:
				c = color.RGBA{11, 122, 117, 255}
			case r < 60*60 && y > 84 && y < 110:
				c = color.RGBA{79, 208, 195, 255}
			}
			m.Set(x, y, c)
		}
	}
	var b bytes.Buffer
	_ = png.Encode(&b, m)
	return b.Bytes()
}

// send visits the shop.
func (i *inspection) send(method, path string, body io.Reader, header ...string) {
	i.t.Helper()
	req, err := http.NewRequestWithContext(i.t.Context(), method, i.url+path, body)
	check(i.t, err)
	for h := 0; h+1 < len(header); h += 2 {
		req.Header.Set(header[h], header[h+1])
	}
	i.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := i.client.Do(req)
	check(i.t, err)
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
}

const agentName = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"

// visits makes one of each kind, the attack first, each after the one before it has been
// captured, so that their order is known.
func (i *inspection) visits() {
	i.t.Helper()
	n := 0
	send := func(method, path string, body io.Reader, header ...string) {
		i.t.Helper()
		i.send(method, path, body, header...)
		n++
		i.await(n)
	}
	send("POST", "/attack?a="+strings.NewReplacer(" ", "+", "'", "%27", `"`, "%22").Replace(attack), strings.NewReader(attack), "X-Attack", attack, "Content-Type", "text/plain", "User-Agent", agentName)
	send("GET", "/logo.png", nil, "User-Agent", agentName)
	send("GET", "/feed.xml", nil, "User-Agent", "feedreader/2.1")
	var form bytes.Buffer
	m := multipart.NewWriter(&form)
	check(i.t, m.WriteField("title", attack))
	check(i.t, m.WriteField("password", "form-secret"))
	part, err := m.CreateFormFile("picture", "lo\"go.png")
	check(i.t, err)
	_, _ = part.Write(logo())
	check(i.t, m.Close())
	send("POST", "/upload", &form, "Content-Type", m.FormDataContentType(), "User-Agent", agentName)
	send("POST", "/login", strings.NewReader("user=ada&password=body-secret&next=%2Faccount"), "Content-Type", "application/x-www-form-urlencoded", "User-Agent", agentName)
	send("DELETE", "/api/orders/4712", nil, "Authorization", "Bearer header-secret", "User-Agent", "shopctl/1.4")
	send("GET", "/nowhere", nil, "User-Agent", agentName)
	send("GET", "/api/orders?limit=20&api_key=query-secret", nil, "Accept", "application/json", "User-Agent", "shopctl/1.4", "Cookie", "session=cookie-secret; theme=dark")
	send("POST", "/webhooks/payment", strings.NewReader(`{"event":"payment.succeeded","id":"evt_8812","amount":2350,"currency":"eur","customer":{"name":"Ada Lovelace","email":"ada@example.com"},"client_secret":"json-secret"}`),
		"Content-Type", "application/json", "User-Agent", "PayHook/3.2", "X-Hub-Signature-256", "sha256=5d3a", "Authorization", "Bearer header-secret")
}

// get asks the local API with curl and reads its JSON.
func (i *inspection) get(path string, into any) {
	i.t.Helper()
	check(i.t, json.Unmarshal([]byte(i.curlPlain(i.api+path)), into))
}

// row is a request in a list.
type row struct {
	ID, Method, Path, Kind, State string
	Status, Frames                int
	ReplayOf                      string `json:"replay_of"`
}

func (i *inspection) rows(query string) []row {
	i.t.Helper()
	var list struct{ Requests []row }
	i.get("/api/requests"+query, &list)
	return list.Requests
}

// await waits until so many requests are answered.
func (i *inspection) await(n int) {
	i.t.Helper()
	eventually(i.t, fmt.Sprintf("%d requests", n), func() bool {
		done := 0
		for _, r := range i.rows("") {
			if r.State == "done" {
				done++
			}
		}
		return done >= n
	})
}

// secret of the run.
func (i *inspection) secret() string {
	i.t.Helper()
	var s struct{ Secret string }
	check(i.t, json.Unmarshal([]byte(i.curl("-X", "POST", i.api+"/api/session")), &s))
	if len(s.Secret) < 20 {
		i.t.Fatalf("secret %q", s.Secret)
	}
	return s.Secret
}

// status asks with curl and returns the status alone.
func (i *inspection) status(args ...string) string {
	i.t.Helper()
	return i.curl(append([]string{"-o", "/dev/null", "-w", "%{http_code}"}, args...)...)
}

func TestLocalAPI(t *testing.T) {
	i := inspect(t)
	i.visits()

	t.Run("list", func(t *testing.T) {
		for query, want := range map[string]string{
			"?status=5xx":                 "DELETE /api/orders/4712 500",
			"?status=404":                 "GET /nowhere 404",
			"?method=delete":              "DELETE /api/orders/4712 500",
			"?path=FEED":                  "GET /feed.xml 200",
			"?text=EVT_8812":              "POST /webhooks/payment 202",
			"?text=shopctl&status=2xx":    "GET /api/orders?limit=20&api_key=•••••• 200",
			"?endpoint=other":             "",
			"?limit=1":                    "POST /webhooks/payment 202",
			"?limit=1&before=3":           "GET /logo.png 200",
			"?text=no+such+text+anywhere": "",
		} {
			got := ""
			for _, r := range i.rows(query) {
				got += fmt.Sprintf("%s %s %d", r.Method, r.Path, r.Status)
			}
			if got != want {
				t.Errorf("%s: %q, want %q", query, got, want)
			}
		}
		for _, query := range []string{"?status=abc", "?limit=1001", "?before=x"} {
			if got := i.status(i.api + "/api/requests" + query); got != "400" {
				t.Errorf("%s: %s", query, got)
			}
		}
	})
	t.Run("credentials", func(t *testing.T) {
		secret := i.secret()
		all, withSecrets := "", ""
		for _, r := range i.rows("") {
			for _, form := range []string{"", "/curl", "/har"} {
				// -g: the API may refuse, which is its right for what can't be repeated
				all += i.curl(i.api + "/api/requests/" + r.ID + form)
				withSecrets += i.curl("-H", "Culvert-Secret: "+secret, i.api+"/api/requests/"+r.ID+form+"?secrets=1")
			}
			for _, m := range []string{"request", "response"} {
				all += i.curl("--output", "-", i.api+"/api/requests/"+r.ID+"/"+m+"/body")
			}
		}
		all += i.curl(i.api+"/api/har") + i.curl(i.api+"/api/requests")
		for _, s := range []string{"header-secret", "cookie-secret", "query-secret", "body-secret", "form-secret", "json-secret", "answer-secret", "redirect-secret", "topsecret"} {
			if at := strings.Index(all, s); at >= 0 {
				t.Errorf("%s is shown: …%s…", s, all[max(0, at-60):at])
			}
			if !strings.Contains(withSecrets, s) {
				t.Errorf("%s is not shown where it was asked for", s)
			}
		}
		for _, args := range [][]string{
			{i.api + "/api/requests/1?secrets=1"},
			{"-H", "Culvert-Secret: wrong", i.api + "/api/requests/1?secrets=1"},
			{i.api + "/api/har?secrets=1"},
			{"-X", "POST", i.api + "/api/requests/1/replay"},
			{"-X", "DELETE", i.api + "/api/requests"},
		} {
			if got := i.status(args...); got != "403" {
				t.Errorf("%v: %s", args, got)
			}
		}
	})
	t.Run("other pages", func(t *testing.T) {
		for want, list := range map[string][][]string{
			"403": {
				{"-H", "Host: rebound.example.com", i.api + "/"},
				{"-H", "Host: rebound.example.com:4040", i.api + "/api/requests"},
				{"-H", "Origin: https://evil.example.com", i.api + "/api/requests"},
				{"-H", "Origin: null", "-X", "POST", i.api + "/api/session"},
				{"-H", "Sec-Fetch-Site: cross-site", i.api + "/api/requests"},
				{"-H", "Sec-Fetch-Site: same-site", i.api + "/app.js"},
				{"-H", "Sec-Fetch-Site: cross-site", "-H", "Sec-Fetch-Mode: no-cors", i.api + "/"},
			},
			"200": {
				{i.api + "/"},
				{i.api + "/app.js"},
				{i.api + "/api/requests"},
				{i.api + "/metrics"},
				{"-H", "Origin: " + i.api, i.api + "/api/requests"},
				{"-H", "Sec-Fetch-Site: cross-site", "-H", "Sec-Fetch-Mode: navigate", i.api + "/"},
				{"-H", "Host: localhost:4040", i.api + "/api/endpoints"},
			},
			"404": {{i.api + "/api/requests/999"}, {i.api + "/api/requests/x"}, {i.api + "/api/nothing"}, {i.api + "/nothing"}},
			"405": {{"-X", "PUT", i.api + "/api/requests"}, {"-X", "POST", i.api + "/"}},
		} {
			for _, args := range list {
				if got := i.status(args...); got != want {
					t.Errorf("%v: %s, want %s", args, got, want)
				}
			}
		}
		head := i.curl("-i", i.api+"/")
		for _, h := range []string{"Content-Security-Policy: default-src 'none'", "X-Content-Type-Options: nosniff", "Referrer-Policy: no-referrer"} {
			if !strings.Contains(head, h) {
				t.Errorf("no %s:\n%s", h, head)
			}
		}
		if strings.Contains(strings.ToLower(head), "access-control") {
			t.Errorf("other origins may read it:\n%s", head)
		}
	})
	t.Run("replay", func(t *testing.T) { testReplay(t, i) })
	t.Run("curl", func(t *testing.T) {
		// The line is run as it stands, against the upstream under the public name.
		id := i.rows("?text=evt_8812")[0].ID
		line := i.curl("-H", "Culvert-Secret: "+i.secret(), i.api+"/api/requests/"+id+"/curl?secrets=1")
		line = strings.TrimSuffix(line, "\n") + " -sS --cacert '" + filepath.Join(i.data, "ca.pem") + "'"
		out, err := exec.CommandContext(t.Context(), "sh", "-c", line).CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), `{"received":167,`) {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
	})
	t.Run("ngrok", func(t *testing.T) {
		var list struct {
			Tunnels []struct {
				Name, Proto string
				PublicURL   string `json:"public_url"`
				Config      struct {
					Addr    string
					Inspect bool
				}
			}
		}
		i.get("/api/tunnels", &list)
		if len(list.Tunnels) != 1 || list.Tunnels[0].PublicURL != i.url || list.Tunnels[0].Proto != "https" ||
			list.Tunnels[0].Config.Addr != "http://"+i.shop.Listener.Addr().String() || !list.Tunnels[0].Config.Inspect {
			t.Errorf("%+v", list)
		}
	})
	t.Run("documented", func(t *testing.T) {
		b, err := os.ReadFile("../../docs/inspector.md")
		check(t, err)
		script := "set -e\n"
		for line := range strings.Lines(string(b)) {
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				script += strings.ReplaceAll(command, "http://127.0.0.1:4040", i.api)
			}
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
		cmd.Dir = t.TempDir()
		out, err := cmd.CombinedOutput()
		if err != nil || strings.Count(script, "curl") < 8 || strings.Contains(string(out), `"error"`) || !strings.Contains(string(out), i.url) {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("metrics", func(t *testing.T) {
		got := i.curlPlain(i.api + "/metrics")
		name := list1(i)
		for _, want := range []string{
			"culvert_connected 1", `culvert_endpoint_online{endpoint="` + name + `"} 1`, `culvert_requests_total{endpoint="` + name + `",status="5xx"} `,
			"culvert_inspector_requests ", "go_goroutines ",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("no %s in\n%s", want, got)
			}
		}
	})
	t.Run("clear", func(t *testing.T) {
		if got := i.status("-X", "DELETE", "-H", "Culvert-Secret: "+i.secret(), i.api+"/api/requests"); got != "204" {
			t.Errorf("clear: %s", got)
		}
		if left := i.rows(""); len(left) != 0 {
			t.Errorf("%d left", len(left))
		}
	})
	stopInspected(t, i)
}

// list1 is the name of the only endpoint.
func list1(i *inspection) string {
	var status struct{ Endpoints []struct{ Name string } }
	i.get("/api/endpoints", &status)
	return status.Endpoints[0].Name
}

// testReplay sends requests again, as they were and changed.
func testReplay(t *testing.T, i *inspection) {
	secret := i.secret()
	post := func(path, body string) (out struct{ ID, Error string }) {
		t.Helper()
		args := []string{"-X", "POST", "-H", "Culvert-Secret: " + secret, i.api + path}
		if body != "" {
			args = append(args, "--data-binary", body)
		}
		check(t, json.Unmarshal([]byte(i.curl(args...)), &out))
		return out
	}
	type detail struct {
		State, Path, Method string
		ReplayOf            string `json:"replay_of"`
		Edited              bool
		Status              int
		Request             struct {
			Headers [][2]string
			Body    struct{ Text string }
		}
		Response struct{ Body struct{ Text string } }
	}
	done := func(id string) (d detail) {
		t.Helper()
		eventually(t, "the replay's answer", func() bool {
			check(t, json.Unmarshal([]byte(i.curl("-H", "Culvert-Secret: "+secret, i.api+"/api/requests/"+id+"?secrets=1")), &d))
			return d.State != "open"
		})
		return d
	}
	original := i.rows("?text=evt_8812")[0].ID
	was := done(original)
	again := post("/api/requests/"+original+"/replay", "")
	d := done(again.ID)
	if d.ReplayOf != original || d.Edited || d.Status != 202 || d.Request.Body.Text != was.Request.Body.Text || d.Response.Body.Text != was.Response.Body.Text {
		t.Errorf("replay: %+v", d)
	}
	// As the page does it: the header's value is the hidden one, and so stays.
	again = post("/api/requests/"+original+"/replay", `{"method":"POST","path":"/webhooks/payment?v=2","headers":[["authorization","Bearer ••••••"],["X-New","1"]],"body":"{}"}`)
	d = done(again.ID)
	headers := fmt.Sprint(d.Request.Headers)
	if !d.Edited || d.Path != "/webhooks/payment?v=2" || d.Request.Body.Text != "{}" || !strings.Contains(d.Response.Body.Text, `"received":2,`) ||
		!strings.Contains(headers, "[authorization Bearer header-secret]") || !strings.Contains(headers, "[X-New 1]") || strings.Contains(headers, "PayHook") {
		t.Errorf("edited: %+v", d)
	}
	for edit, want := range map[string]string{
		`{"headers":[["X","a\r\nY: b"]]}`: "header",
		`{"path":"/a b"}`:                 "spaces",
		`{"method":"GET /"}`:              "word",
		`{"path":"nowhere"}`:              "begins with /",
		`{`:                               "not understood",
		`{"body":"••••••"}`:               "hidden",
	} {
		if got := post("/api/requests/"+original+"/replay", edit); !strings.Contains(got.Error, want) {
			t.Errorf("%s: %+v", edit, got)
		}
	}
}

// stopInspected ends the agent and checks that nothing holds it up.
func stopInspected(t *testing.T, i *inspection) {
	t.Helper()
	i.client.CloseIdleConnections()
	i.agent.signal(syscall.SIGTERM)
	if code := i.agent.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	i.signal(syscall.SIGTERM)
	if code := i.exit(); code != 0 {
		t.Errorf("exit code %d of the server", code)
	}
}

// TestInspectStreams: what goes on for long is seen as it comes.
func TestInspectStreams(t *testing.T) {
	i := inspect(t)
	ctx := t.Context()
	ws, _, err := websocket.Dial(ctx, i.url+"/support", &websocket.DialOptions{HTTPClient: i.client, CompressionMode: websocket.CompressionContextTakeover, CompressionThreshold: 1})
	check(t, err)
	ask := `{"from":"ask","text":"Is the Earl Grey back in stock? Is the Earl Grey back in stock?"}`
	for range 3 {
		check(t, ws.Write(ctx, websocket.MessageText, []byte(ask)))
		_, _, err := ws.Read(ctx)
		check(t, err)
	}
	req, err := http.NewRequestWithContext(ctx, "GET", i.url+"/prices", nil)
	check(t, err)
	res, err := i.client.Do(req)
	check(t, err)
	defer res.Body.Close()
	type frame struct {
		ToVisitor             bool `json:"to_visitor"`
		Type, Event, ID, Text string
		Compressed, Opaque    bool
	}
	var d struct {
		State, Kind string
		Messages    []frame
	}
	frames := func(path, kind string, n int) []frame {
		t.Helper()
		eventually(t, kind, func() bool {
			d.Messages = nil
			rows := i.rows("?path=" + path)
			if len(rows) != 1 {
				return false
			}
			i.get("/api/requests/"+rows[0].ID, &d)
			return len(d.Messages) >= n
		})
		if d.State != "open" || d.Kind != kind || len(d.Messages) != n {
			t.Errorf("%+v", d)
		}
		return d.Messages
	}
	said := frames("/support", "websocket", 6)
	if want := (frame{Type: "text", Text: ask, Compressed: true}); said[2] != want {
		t.Errorf("%+v, want %+v", said[2], want)
	}
	if want := (frame{ToVisitor: true, Type: "text", Text: strings.Replace(ask, "ask", "answer", 1), Compressed: true}); said[5] != want {
		t.Errorf("%+v, want %+v", said[5], want)
	}
	if got, want := frames("/prices", "events", 5)[4], (frame{ToVisitor: true, Type: "event", Event: "price", ID: "5", Text: `{"sku":"TEA-EARL","price":9.70}`}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	close(i.shop.release)
	_, _ = io.Copy(io.Discard, res.Body)
	check(t, ws.Close(websocket.StatusNormalClosure, "bye"))
	i.await(2)
	frames2 := i.rows("?path=/support")
	if frames2[0].Frames != 8 { // with a close each way
		t.Errorf("%+v", frames2)
	}
	stopInspected(t, i)
}

// TestInspectUnreached: what comes while the upstream is down is seen too, and can be
// sent again when it is back.
func TestInspectUnreached(t *testing.T) {
	i := inspect(t)
	address := i.shop.Listener.Addr().String()
	i.shop.Close()
	i.send("POST", "/webhooks/payment", strings.NewReader(`{"id":"evt_1"}`), "Content-Type", "application/json")
	var d struct {
		State, Unreached string
		Request          struct{ Body struct{ Text string } }
	}
	eventually(t, "the request", func() bool { return len(i.rows("?status=failed")) > 0 })
	id := i.rows("?status=failed")[0].ID
	i.get("/api/requests/"+id, &d)
	if !strings.Contains(d.Unreached, "refused") || d.Request.Body.Text != `{"id":"evt_1"}` {
		t.Errorf("%+v", d)
	}
	l, err := net.Listen("tcp", address)
	check(t, err)
	srv := &http.Server{Handler: i.shop.Config.Handler}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	var made struct{ ID string }
	check(t, json.Unmarshal([]byte(i.curl("-X", "POST", "-H", "Culvert-Secret: "+i.secret(), i.api+"/api/requests/"+id+"/replay")), &made))
	i.await(1)
	if rows := i.rows("?status=202"); len(rows) != 1 || rows[0].ID != made.ID || rows[0].ReplayOf != id {
		t.Errorf("%+v", rows)
	}
	stopInspected(t, i)
}

// TestNoInspect: without the inspector there is the rest of the API.
func TestNoInspect(t *testing.T) {
	i := inspect(t, "--no-inspect")
	i.send("GET", "/feed.xml", nil)
	if got := i.status(i.api + "/api/requests"); got != "404" {
		t.Errorf("requests: %s", got)
	}
	if got := i.status(i.api + "/api/endpoints"); got != "200" {
		t.Errorf("endpoints: %s", got)
	}
	if s := i.curl("-X", "POST", i.api+"/api/session"); !strings.Contains(s, `"inspecting": false`) {
		t.Errorf("session: %s", s)
	}
	stopInspected(t, i)
}

// TestEventsOfTheAPI: curl sees a request as it happens.
func TestEventsOfTheAPI(t *testing.T) {
	i := inspect(t)
	cmd := exec.CommandContext(t.Context(), "curl", "-sSN", "--max-time", "60", i.api+"/api/events?status=4xx")
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	found := make(chan string, 1)
	go func() {
		seen := ""
		buf := make([]byte, 4096)
		for !strings.Contains(seen, "/nowhere") {
			n, err := out.Read(buf)
			if seen += string(buf[:n]); err != nil {
				break
			}
			if strings.Contains(seen, "event: endpoints") && !strings.Contains(seen, "event: requests") {
				i.shopVisits()
			}
		}
		found <- seen
	}()
	select {
	case seen := <-found:
		if !strings.Contains(seen, "event: requests\ndata: ") || strings.Contains(seen, "feed.xml") {
			t.Errorf("%s", seen)
		}
	case <-time.After(patience):
		t.Error("nothing came")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	stopInspected(t, i)
}

// shopVisits makes one visit that a filter for 4xx picks and one that it doesn't.
func (i *inspection) shopVisits() {
	for _, path := range []string{"/feed.xml", "/nowhere"} {
		if res, err := i.client.Get(i.url + path); err == nil {
			_ = res.Body.Close()
		}
	}
}
