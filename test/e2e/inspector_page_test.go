package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/coder/websocket"
)

// browser is a tab of Chromium.
type browser struct {
	t   *testing.T
	ctx context.Context //nolint:containedctx // chromedp keeps the tab in it
}

func newBrowser(t *testing.T) *browser {
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("chromium is needed: make test installs it")
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-quic", true), chromedp.Flag("hide-scrollbars", true), chromedp.Flag("lang", "en-GB"),
		chromedp.Flag("host-resolver-rules", "MAP rebound.example.com 127.0.0.1"))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), opts...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, stop := context.WithTimeout(ctx, 6*patience)
	t.Cleanup(stop)
	return &browser{t: t, ctx: ctx}
}

func (b *browser) open(url string) {
	b.t.Helper()
	if _, err := chromedp.Run(b.ctx, chromedp.Navigate(url)); err != nil {
		b.t.Fatal(err)
	}
}

// eval evaluates an expression to text.
func (b *browser) eval(expression string) string {
	b.t.Helper()
	got, err := chromedp.Run(b.ctx, chromedp.Evaluate[string]("String("+expression+")"))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return got
}

// until waits for an expression to be true.
func (b *browser) until(expression string) {
	b.t.Helper()
	eventually(b.t, expression, func() bool { return b.eval("!!("+expression+")") == "true" })
}

func (b *browser) key(k string) {
	b.t.Helper()
	if _, err := chromedp.Run(b.ctx, chromedp.KeyEvent(k)); err != nil {
		b.t.Fatal(err)
	}
}

// button is an expression for the button with a name.
func button(name string) string {
	return fmt.Sprintf(`[...document.querySelectorAll('button')].find(b => (b.getAttribute('aria-label') || b.textContent.trim()) === %q)`, name)
}

func (b *browser) click(name string) {
	b.t.Helper()
	b.until(button(name))
	b.eval(button(name) + ".click()")
}

func (b *browser) tab(name string) {
	b.t.Helper()
	b.eval(fmt.Sprintf(`[...document.querySelectorAll('[role=tab]')].find(b => b.textContent.startsWith(%q)).click()`, name))
}

// size sets the window's.
func (b *browser) size(width, height int64) {
	b.t.Helper()
	if _, err := chromedp.Run(b.ctx, chromedp.EmulateViewport(width, height)); err != nil {
		b.t.Fatal(err)
	}
}

// picture takes a picture of the page as it is, for who asks for them: make pictures
// does, and so does whoever wants to look.
func (b *browser) picture(name string) {
	b.t.Helper()
	shot, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil || len(shot) < 1000 {
		b.t.Fatalf("picture of %d bytes: %v", len(shot), err)
	}
	if dir := os.Getenv("CULVERT_PICTURES"); dir != "" {
		check(b.t, os.WriteFile(filepath.Join(dir, name+".png"), shot, 0o600))
	}
}

// fits checks that nothing is wider than the window.
func (b *browser) fits() {
	b.t.Helper()
	if got := b.eval(`document.documentElement.scrollWidth - innerWidth`); got != "0" {
		b.t.Errorf("the page is wider than its window by %s", got)
	}
}

// named checks that everything to press or to fill in has a name.
func (b *browser) named() {
	b.t.Helper()
	if got := b.eval(`[...document.querySelectorAll('button, input, select, textarea, a')].filter(e =>
		!(e.getAttribute('aria-label') || e.textContent.trim() || e.closest('label'))).map(e => e.outerHTML).join()`); got != "" {
		b.t.Errorf("without a name: %s", got)
	}
}

const rowCount = `document.querySelectorAll('[data-row]').length`

// pick selects the row of a request.
func (b *browser) pick(path string) {
	b.t.Helper()
	row := fmt.Sprintf(`[...document.querySelectorAll('[data-row]')].find(r => r.querySelector('.path').textContent.startsWith(%q))`, path)
	b.until(row)
	b.eval(row + ".click()")
	b.until(fmt.Sprintf(`document.querySelector('.url')?.textContent.includes(%q)`, path))
}

func TestInspectorPage(t *testing.T) {
	i := inspect(t)
	b := newBrowser(t)
	b.size(1360, 860)
	b.open(i.api + "/")
	b.until(`document.querySelector('.address code')?.textContent === ` + fmt.Sprintf("%q", i.url))
	b.eval(`(window.broken = [], addEventListener('securitypolicyviolation', e => window.broken.push(e.violatedDirective + ' ' + e.blockedURI)))`)
	b.picture("empty")

	// The list fills while it is looked at.
	i.visits()
	b.until(rowCount + ` === 9`)
	if got := b.eval(`document.querySelector('[data-row] .path').textContent`); got != "/webhooks/payment" {
		t.Errorf("the newest is %s", got)
	}
	b.picture("list")

	t.Run("attack", func(t *testing.T) { testAttack(t, b) })
	t.Run("detail", func(t *testing.T) { testDetail(t, b) })
	t.Run("filter", func(t *testing.T) { testFilters(t, b) })
	t.Run("pause", func(t *testing.T) {
		b.key("p")
		b.until(`document.querySelector('.held')`)
		i.send("GET", "/feed.xml?while=paused", nil)
		b.until(`document.querySelector('.held').textContent.includes('1 new request')`)
		if got := b.eval(rowCount); got != "9" {
			t.Errorf("%s rows while paused", got)
		}
		b.key("p")
		b.until(rowCount + ` === 10`)
	})
	t.Run("replay", func(*testing.T) { testPageReplay(b) })
	t.Run("compare", func(t *testing.T) {
		ids := i.rows("?path=/webhooks/payment")
		b.eval(`location.hash = '#/` + ids[len(ids)-1].ID + "/" + ids[0].ID + `'`)
		b.until(`document.querySelectorAll('.lines .differs').length > 0`)
		if got := b.eval(`document.querySelector('.compare').textContent`); !strings.Contains(got, "payment.failed") || !strings.Contains(got, "payment.succeeded") {
			t.Errorf("%s", got)
		}
		b.picture("compare")
	})
	t.Run("archive", func(t *testing.T) { testArchive(t, i) })
	t.Run("streams", func(t *testing.T) { testStreamsPage(t, i, b) })
	t.Run("narrow", func(t *testing.T) {
		b.size(360, 740)
		b.eval(`location.hash = ''`)
		b.until(rowCount + ` > 8`)
		b.fits()
		b.picture("narrow-list")
		b.pick("/webhooks/payment")
		b.until(`document.querySelector('.code')`)
		b.fits()
		b.picture("narrow-detail")
		b.size(1360, 860)
	})
	kept := i.curl(i.api + "/api/har")
	t.Run("clear", func(t *testing.T) {
		b.click("Clear")
		b.until(rowCount + ` === 0`)
		if left := i.rows(""); len(left) != 0 {
			t.Errorf("%d left", len(left))
		}
	})
	if got := b.eval(`window.broken.join()`); got != "" {
		t.Errorf("the page broke its own policy: %s", got)
	}
	if got := b.eval(`performance.getEntriesByType('resource').map(e => e.name).filter(u => !u.startsWith(location.origin) && !u.startsWith('blob:')).join()`); got != "" {
		t.Errorf("the page asked elsewhere: %s", got)
	}
	t.Run("other pages", func(t *testing.T) { testOtherPages(t, i, b) })
	t.Run("developer tools", func(t *testing.T) { testDeveloperTools(t, b, kept) })
	b.open("about:blank")
	stopInspected(t, i)
}

// testOtherPages: pages of other sites neither read what was captured nor change it.
func testOtherPages(t *testing.T, i *inspection, b *browser) {
	i.send("GET", "/feed.xml", nil)
	i.await(1)
	b.open(strings.Replace(i.api, "127.0.0.1", "rebound.example.com", 1) + "/api/requests")
	if got := b.eval(`document.body.textContent`); !strings.Contains(got, "localhost and loopback addresses only") || strings.Contains(got, "feed.xml") {
		t.Errorf("under a foreign name: %s", got)
	}
	b.open("http://" + i.shop.Listener.Addr().String() + "/nowhere")
	for _, c := range []string{
		`fetch(api + '/api/requests').then(r => r.text())`,
		`fetch(api + '/api/session', { method: 'POST' }).then(r => r.text())`,
		`fetch(api + '/api/requests', { method: 'DELETE', headers: { 'Culvert-Secret': 'x' } }).then(r => r.text())`,
		`fetch(api + '/api/requests/1/replay', { method: 'POST', mode: 'no-cors' }).then(r => r.text())`,
		`new Promise(done => { const e = new EventSource(api + '/api/events'); e.addEventListener('endpoints', m => done(m.data)); e.onerror = () => done('') })`,
		`new Promise(done => { const f = document.createElement('iframe'); f.src = api + '/'; f.onload = () => { try { done(f.contentDocument.body.textContent) } catch { done('') } }; document.body.append(f) })`,
	} {
		b.eval(`(window.got = undefined, api = ` + fmt.Sprintf("%q", i.api) + `, ` + c + `.then(text => window.got = text, () => window.got = ''), 0)`)
		b.until(`window.got !== undefined`)
		if got := b.eval(`window.got`); got != "" {
			t.Errorf("%s got %s", c, got)
		}
	}
	if rows := i.rows(""); len(rows) != 1 {
		t.Errorf("after other pages' attempts: %+v", rows)
	}
}

// testAttack looks at every part of a request whose every part attacks.
func testAttack(t *testing.T, b *browser) {
	for _, path := range []string{"/attack", "/upload"} {
		b.pick(path)
		for _, tab := range []string{"Request", "Response"} {
			b.tab(tab)
			views := b.eval(`document.querySelectorAll('.segments button').length`)
			for v := range len(views) * 4 {
				b.eval(fmt.Sprintf(`document.querySelectorAll('.segments button')[%d]?.click()`, v))
			}
		}
	}
	b.tab("Request")
	if got := b.eval(`document.querySelector('.panel').textContent.includes('onerror')`); got != "true" {
		t.Error("the attack isn't shown")
	}
	if got := b.eval(`typeof window.pwned`); got != "undefined" {
		t.Error("a captured script ran")
	}
	b.picture("form")
}

func testDetail(t *testing.T, b *browser) {
	b.pick("/logo.png")
	b.until(`document.querySelector('.image img')?.naturalWidth === 240`)
	b.picture("image")
	b.pick("/api/orders?")
	b.until(`document.querySelector('.t-key')`)
	if got := b.eval(`document.querySelector('.code').textContent.split('\n').length > 20`); got != "true" {
		t.Error("the JSON isn't laid out")
	}
	b.tab("Request")
	b.until(`document.querySelector('dd.hidden')`)
	if got := b.eval(`document.querySelector('.detail').textContent`); strings.Contains(got, "query-secret") || strings.Contains(got, "cookie-secret") {
		t.Errorf("credentials are shown: %s", got)
	}
	b.click("Show credentials")
	b.until(`document.querySelector('.detail').textContent.includes('cookie-secret')`)
	b.click("Hide credentials")
	b.until(`!document.querySelector('.detail').textContent.includes('cookie-secret')`)
	b.pick("/feed.xml")
	b.until(`document.querySelector('.code')?.textContent.includes('\n    <title>New teas</title>')`)
	b.pick("/webhooks/payment")
	b.tab("Request")
	b.until(`document.querySelector('.t-key')`)
	b.named()
	b.eval(`document.querySelector('[data-row="1"]').hidden = true`) // the attack is no sight for docs/
	b.picture("inspector")
	b.eval(`document.querySelector('[aria-label="Dark colours"]').click()`)
	b.until(`document.documentElement.dataset.theme === 'dark'`)
	b.picture("inspector-dark")
	b.eval(`document.querySelector('[aria-label="Light colours"]').click()`)
}

func testFilters(t *testing.T, b *browser) {
	set := func(name, value, event string) {
		t.Helper()
		b.eval(fmt.Sprintf(`(e => { e.value = %q; e.dispatchEvent(new Event(%q, { bubbles: true })) })(document.querySelector('[aria-label=%q]'))`, value, event, name))
	}
	for _, c := range []struct{ name, value, event, want string }{
		{"Status", "5xx", "change", "1"},
		{"Method", "DELETE", "change", "1"},
		{"Method", "POST", "change", "4"},
		{"Part of the path", "orders", "input", "2"},
		{"Search headers and bodies", "warehouse", "input", "1"},
	} {
		set(c.name, c.value, c.event)
		b.until(rowCount + ` === ` + c.want)
		b.click("Show all")
		b.until(rowCount + ` === 9`)
	}
	b.key("/")
	if got := b.eval(`document.activeElement.id`); got != "search" {
		t.Errorf("/ leads to %s", got)
	}
	b.click("Show all") // a key of the test types also what the page prevents
	b.until(rowCount + ` === 9`)
	b.eval(`document.activeElement.blur()`)
	b.eval(`location.hash = ''`)
	b.until(`!document.querySelector('[aria-current]')`)
	b.key("j")
	b.until(`document.querySelector('[aria-current]')`)
	first := b.eval(`document.querySelector('[aria-current]').dataset.row`)
	b.key("j")
	b.until(`document.querySelector('[aria-current]').dataset.row !== ` + fmt.Sprintf("%q", first))
	b.key("k")
	b.until(`document.querySelector('[aria-current]').dataset.row === ` + fmt.Sprintf("%q", first))
	b.key("?")
	b.until(`document.querySelector('dialog[open] .keys')`)
	b.click("Close")
	b.until(`!document.querySelector('dialog')`)
}

// testPageReplay replays with a key, and edited in the dialog.
func testPageReplay(b *browser) {
	b.pick("/webhooks/payment")
	was := b.eval(`location.hash`)
	b.key("r")
	b.until(`location.hash !== ` + fmt.Sprintf("%q", was))
	b.until(`document.querySelector('.facts')?.textContent.includes('replay of')`)
	b.until(`document.querySelector('.title .status')?.textContent === '202'`)
	b.eval(`location.hash = ` + fmt.Sprintf("%q", was))
	b.until(`document.querySelector('.facts')?.textContent.includes('from ')`)
	b.click("Show credentials")
	b.until(`document.querySelector('.panel')?.textContent.includes('answer-secret')`)
	b.key("e")
	b.until(`document.querySelector('dialog textarea')`)
	b.picture("edit")
	b.eval(`(e => { e.value = e.value.replace('payment.succeeded', 'payment.failed'); e.dispatchEvent(new Event('input', { bubbles: true })) })(document.querySelectorAll('dialog textarea')[1])`)
	b.click("Send")
	b.until(`document.querySelector('.facts')?.textContent.includes('edited replay of')`)
	b.until(`document.querySelector('.title .status')?.textContent === '202'`)
	b.tab("Request")
	b.until(`document.querySelector('.code').textContent.includes('payment.failed')`)
}

// testStreamsPage looks at a WebSocket and an event stream that go on.
func testStreamsPage(t *testing.T, i *inspection, b *browser) {
	ctx := t.Context()
	ws, _, err := websocket.Dial(ctx, i.url+"/support", &websocket.DialOptions{HTTPClient: i.client})
	check(t, err)
	say := func(text string) {
		t.Helper()
		check(t, ws.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"from":"ask","text":%q}`, text)))
		_, _, err := ws.Read(ctx)
		check(t, err)
	}
	say("Hello, is the Earl Grey back in stock?")
	b.pick("/support")
	b.until(`document.querySelectorAll('.frame').length === 2`)
	for _, text := range []string{"And the navy mug?", attack, "Thanks!"} {
		say(text)
	}
	check(t, ws.Write(ctx, websocket.MessageBinary, logo()[:64]))
	_, _, err = ws.Read(ctx)
	check(t, err)
	b.until(`document.querySelectorAll('.frame').length === 10`)
	b.eval(`document.querySelectorAll('.frame button')[8].click()`)
	b.until(`document.querySelector('.frame .hex')?.textContent.includes('PNG')`)
	b.picture("websocket")
	if got := b.eval(`typeof window.pwned`); got != "undefined" {
		t.Error("a captured script ran")
	}
	res, err := i.client.Get(i.url + "/prices")
	check(t, err)
	b.pick("/prices")
	b.until(`document.querySelectorAll('.frame').length === 5`)
	b.picture("events")
	close(i.shop.release)
	b.until(`!document.querySelector('.livedot')`)
	_ = res.Body.Close()
	check(t, ws.Close(websocket.StatusNormalClosure, "bye"))
}
