package e2e

import (
	"encoding/json"
	"fmt"
	"testing"
)

// testArchive checks what HAR 1.2 demands of an archive.
func testArchive(t *testing.T, i *inspection) {
	var archive struct {
		Log struct {
			Version string
			Creator struct{ Name, Version string }
			Entries []map[string]json.RawMessage
		}
	}
	i.get("/api/har", &archive)
	if archive.Log.Version != "1.2" || archive.Log.Creator.Name == "" || archive.Log.Creator.Version == "" || len(archive.Log.Entries) < 12 {
		t.Fatalf("%+v", archive)
	}
	demanded := map[string][]string{
		"request":  {"method", "url", "httpVersion", "cookies", "headers", "queryString", "headersSize", "bodySize"},
		"response": {"status", "statusText", "httpVersion", "cookies", "headers", "content", "redirectURL", "headersSize", "bodySize"},
		"timings":  {"send", "wait", "receive"},
	}
	for n, e := range archive.Log.Entries {
		for _, key := range []string{"startedDateTime", "time", "cache"} {
			if e[key] == nil {
				t.Errorf("entry %d has no %s", n, key)
			}
		}
		for part, keys := range demanded {
			var fields map[string]json.RawMessage
			check(t, json.Unmarshal(e[part], &fields))
			for _, key := range keys {
				if v := fields[key]; v == nil || string(v) == "null" {
					t.Errorf("%s of entry %d has no %s", part, n, key)
				}
			}
		}
		var total float64
		var timings struct{ Send, Wait, Receive float64 }
		check(t, json.Unmarshal(e["time"], &total))
		check(t, json.Unmarshal(e["timings"], &timings))
		if d := total - timings.Send - timings.Wait - timings.Receive; d > 0.01 || d < -0.01 || timings.Wait < 0 {
			t.Errorf("entry %d took %v, its parts %+v", n, total, timings)
		}
	}
}

// testDeveloperTools has Chromium's own developer tools open an archive, as their button
// "Import HAR file" does.
func testDeveloperTools(t *testing.T, b *browser, archive string) {
	b.open("devtools://devtools/bundled/devtools_app.html")
	b.eval(`void (window.imported = '', (async () => {
		const at = 'devtools://devtools/bundled/';
		const { ViewManager } = await import(at + 'ui/legacy/legacy.js');
		const { NetworkPanel } = await import(at + 'panels/network/network.js');
		await ViewManager.ViewManager.instance().showView('network');
		const view = NetworkPanel.NetworkPanel.instance().networkLogView;
		await view.onLoadFromFile(new File([` + fmt.Sprintf("%q", archive) + `], 'culvert.har'));
		window.imported = 'done';
	})().catch(e => window.imported = e + e.stack))`)
	b.until(`window.imported`)
	if got := b.eval(`window.imported`); got != "done" {
		t.Fatal(got)
	}
	// Their elements are in shadow trees.
	const shown = `(function text(n) {
		if (n.nodeType === 3) return [n.data];
		if (n.nodeName === 'STYLE') return [];
		return [...(n.shadowRoot ? text(n.shadowRoot) : []), ...[...n.childNodes].flatMap(text)];
	})(document.body)`
	var har struct {
		Log struct {
			Entries []struct{ Request struct{ URL string } }
		}
	}
	check(t, json.Unmarshal([]byte(archive), &har))
	b.until(fmt.Sprintf(`%s.includes('%d requests')`, shown, len(har.Log.Entries)))
	for _, text := range []string{"payment", "support", "websocket", "prices", "eventsource", "logo.png", "png", "fetch", "101", "202", "404", "500"} {
		if b.eval(fmt.Sprintf(`%s.includes(%q)`, shown, text)) != "true" {
			t.Errorf("%q is not shown among: %s", text, b.eval(shown+".join('|')"))
		}
	}
	b.picture("devtools")
}
