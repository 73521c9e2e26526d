package remote

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func TestAddresses(t *testing.T) {
	inside := Rules{Networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("0.0.0.0/0")}}
	for address, c := range map[string]struct{ free, allowed bool }{
		"8.8.8.8": {true, true}, "2606:4700::1111": {true, true}, "::ffff:8.8.8.8": {true, true},
		"127.0.0.1": {false, true}, "::ffff:127.0.0.1": {false, true}, "10.1.2.3": {false, true}, "192.168.1.1": {false, true},
		"172.31.0.1": {false, true}, "100.64.0.1": {false, true}, "64:ff9b::a01:203": {false, true}, "2002:7f00:1::": {false, true},
		"::127.0.0.1": {false, true}, "::1": {}, "fd12::1": {}, "fec0::1": {},
		// Never, whatever is allowed.
		"169.254.169.254": {}, "::ffff:169.254.169.254": {}, "64:ff9b::a9fe:a9fe": {}, "2002:a9fe:a9fe::1": {}, "fe80::1": {}, "fe80::1%eth0": {},
		"fd00:ec2::254": {}, "100.100.100.200": {}, "168.63.129.16": {}, "0.0.0.0": {}, "0.1.2.3": {}, "::": {}, "224.0.0.1": {}, "ff02::1": {},
		"255.255.255.255": {},
	} {
		a := netip.MustParseAddr(address)
		if err := (Rules{}).reach(a); (err == nil) != c.free {
			t.Errorf("%s by default: %v", address, err)
		}
		if err := inside.reach(a); (err == nil) != c.allowed {
			t.Errorf("%s where the networks are allowed: %v", address, err)
		}
	}
}

func TestPermit(t *testing.T) {
	narrow := Rules{Schemes: []string{"https", "s3"}, Hosts: []string{"videos.example.org", "*.cdn.example.org", "clips"}}
	for uri, permitted := range map[string]bool{
		"https://videos.example.org/a": true, "https://VIDEOS.example.org./a": true, "https://a.b.cdn.example.org/": true, "https://videos.example.org:8443/a": true,
		"s3://clips/a?region=eu-north-1": true,
		"http://videos.example.org/a":    false, "gs://clips/a": false, "https://cdn.example.org/": false, "https://evilcdn.example.org/": false,
		"https://videos.example.org.evil/": false, "https://x/videos.example.org": false, "s3://other/a": false,
		"s3://clips/a?endpoint=http://169.254.169.254": false, "s3://clips/a?profile=admin": false,
	} {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		if err := narrow.permit(u); (err == nil) != permitted {
			t.Errorf("%s: %v", uri, err)
		}
	}
	for uri, permitted := range map[string]bool{
		"gs://any-bucket/x": true, "s3://arn:aws:s3/x": false, "s3://a:1/x": false, "gs://b/x?access_id=me": false,
	} {
		u := &url.URL{}
		if parsed, err := url.Parse(uri); err == nil {
			u = parsed
		} else if permitted {
			t.Fatal(err)
		} else {
			continue
		}
		if err := (Rules{}).permit(u); (err == nil) != permitted {
			t.Errorf("%s: %v", uri, err)
		}
	}
	for _, r := range []Rules{{Schemes: []string{"file"}}, {Hosts: []string{"a.*"}}, {Hosts: []string{"http://x"}}, {Networks: []netip.Prefix{netip.MustParsePrefix("169.254.0.0/16")}}} {
		if err := r.Check(); err == nil {
			t.Errorf("%v accepted", r)
		}
	}
}

// What a name or a redirection leads to is judged, not what it is called, and the server is never asked.
func TestLocalServerIsNotReached(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("asked for %s", r.URL) }))
	defer server.Close()
	none := []netip.Prefix{} // not even the tests'
	s := open(t, Options{Rules: Rules{Networks: none}})
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, uri := range []string{
		server.URL + "/a.mp4", "http://localhost:" + at.Port() + "/a.mp4", "http://[::ffff:127.0.0.1]:" + at.Port() + "/a.mp4",
		"http://0x7f000001:" + at.Port() + "/a.mp4", "http://169.254.169.254/latest/meta-data/?token=hunter2",
	} {
		_, _, err := s.Fetch(t.Context(), uri)
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

func TestRedirectionIsJudged(t *testing.T) {
	inner := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "secret") }))
	defer inner.Close()
	for _, target := range []string{"http://169.254.169.254/latest", inner.URL + "/x", "https://elsewhere.example/"} {
		outer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, target, http.StatusFound)
		}))
		_, _, err := open(t, Options{}).Fetch(t.Context(), outer.URL+"/a.mp4?sig=hunter2")
		if err == nil || !strings.Contains(err.Error(), "another host") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("to %s: %v", target, err)
		}
		outer.Close()
	}
}
