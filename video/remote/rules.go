package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Schemes are those that can be fetched.
var Schemes = []string{"s3", "gs", "http", "https"}

// Rules says what may be fetched. Whoever names a URI makes this machine open a connection, so by default it reaches the
// public internet and no more: neither this machine nor the network it stands in.
type Rules struct {
	Schemes  []string       // of Schemes; empty: all
	Hosts    []string       // hosts and buckets that may be named: "example.org", or "*.example.org" for those below it; empty: any
	Networks []netip.Prefix // networks of private or loopback addresses that may be reached all the same; default none
}

// Check refuses rules that cannot be meant.
func (r Rules) Check() error {
	for _, s := range r.Schemes {
		if !slices.Contains(Schemes, s) {
			return fmt.Errorf("scheme %q: want one of %s", s, strings.Join(Schemes, ", "))
		}
	}
	for _, h := range r.Hosts {
		if h == "" || strings.ContainsAny(h, "/:@ ") || strings.Contains(strings.TrimPrefix(h, "*."), "*") {
			return fmt.Errorf("host %q: want a name such as example.org, or *.example.org", h)
		}
	}
	for _, n := range r.Networks {
		if never := forbidden(n.Addr()); never != "" {
			return fmt.Errorf("network %s: %s is never reached", n, never)
		}
	}
	return nil
}

// bucketName is what buckets may be called in either store; colons of ARNs and what else an SDK might take are not.
var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{1,221}$`)

// bucketSettings may stand behind "?" in the name of a bucket. What sends requests elsewhere, such as endpoint, may not:
// that is for the environment to say, in AWS_ENDPOINT_URL.
var bucketSettings = map[string][]string{"s3": {"region", "anonymous", "use_path_style"}, "gs": {"anonymous"}}

// permit refuses a URI that the rules do not let through, as far as can be told before its host is looked up.
func (r Rules) permit(u *url.URL) error {
	if len(r.Schemes) > 0 && !slices.Contains(r.Schemes, u.Scheme) {
		return fmt.Errorf("%q: scheme %s may not be fetched here (%s may)", shown(u), u.Scheme, strings.Join(r.Schemes, ", "))
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if len(r.Hosts) > 0 && !slices.ContainsFunc(r.Hosts, func(pattern string) bool { return matches(strings.ToLower(pattern), host) }) {
		return fmt.Errorf("%q: %s may not be fetched from here (%s may)", shown(u), host, strings.Join(r.Hosts, ", "))
	}
	if settings, isBucket := bucketSettings[u.Scheme]; isBucket {
		if !bucketName.MatchString(u.Host) {
			return fmt.Errorf("%q: %q is no name of a bucket", shown(u), u.Host)
		}
		for name := range u.Query() {
			if !slices.Contains(settings, name) {
				return fmt.Errorf("%q: setting %q may not be given in a URI (%s may)", shown(u), name, strings.Join(settings, ", "))
			}
		}
	}
	return nil
}

func matches(pattern, host string) bool {
	if below, ok := strings.CutPrefix(pattern, "*"); ok { // ".example.org"
		return strings.HasSuffix(host, below) && len(host) > len(below)
	}
	return pattern == host
}

// shown is a URI for errors and logs: what follows "?" may be a signature.
func shown(u *url.URL) string {
	public := *u
	if public.RawQuery != "" {
		public.RawQuery = "…"
	}
	public.Fragment, public.RawFragment = "", ""
	return strings.ReplaceAll(public.Redacted(), "%E2%80%A6", "…")
}

// metadata are addresses at which clouds tell a machine its credentials, beside the link-local 169.254.169.254.
var metadata = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("100.100.100.200"), // Alibaba
	netip.MustParseAddr("168.63.129.16"),   // Azure
	netip.MustParseAddr("192.0.0.192"),     // Oracle
}

var (
	// thisNetwork and reserved are never anybody's (RFC 6890).
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")
	reserved    = netip.MustParsePrefix("240.0.0.0/4")

	// private are networks that are not the internet's, beside those that netip.Addr.IsPrivate knows (RFC 6890, RFC 6598).
	private = []netip.Prefix{
		netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
		netip.MustParsePrefix("fec0::/10"),
	}

	// An address of these networks holds an IPv4 address, at this byte, to which a gateway may lead.
	embedding = map[netip.Prefix]int{
		netip.MustParsePrefix("64:ff9b::/96"): 12, netip.MustParsePrefix("64:ff9b:1::/48"): 12, // RFC 6052, RFC 8215
		netip.MustParsePrefix("2002::/16"): 2, // RFC 3056
		netip.MustParsePrefix("::/96"):     12,
	}
)

// inner is the IPv4 address that an IPv6 address stands for, or else the address itself.
func inner(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if !a.Is6() || a == netip.IPv6Loopback() || a.IsUnspecified() {
		return a
	}
	for network, at := range embedding {
		if network.Contains(a) {
			bytes := a.As16()
			return netip.AddrFrom4([4]byte(bytes[at : at+4]))
		}
	}
	return a
}

// forbidden says what an address is that is never reached; "" for one that may be.
func forbidden(a netip.Addr) string {
	switch a := inner(a); {
	case slices.Contains(metadata, a):
		return "an address of cloud metadata"
	case a.IsLinkLocalUnicast():
		return "a link-local address"
	case a.IsMulticast():
		return "a multicast address"
	case !a.IsValid(), a.IsUnspecified(), a.Is4() && (thisNetwork.Contains(a) || reserved.Contains(a)):
		return "no machine's address"
	}
	return ""
}

// reach refuses an address that a connection may not be made to.
func (r Rules) reach(a netip.Addr) error {
	if never := forbidden(a); never != "" {
		return &forbiddenError{fmt.Sprintf("%s is %s, which is never reached", a, never)}
	}
	real := inner(a)
	if !real.IsLoopback() && !real.IsPrivate() && !slices.ContainsFunc(private, func(p netip.Prefix) bool { return p.Contains(real) }) {
		return nil
	}
	if slices.ContainsFunc(r.Networks, func(p netip.Prefix) bool { return p.Contains(real) }) {
		return nil
	}
	return &forbiddenError{fmt.Sprintf("%s is a private address, and not in a network that may be reached", a)}
}

// forbiddenError is where the rules do not let a connection go.
type forbiddenError struct{ text string }

func (e *forbiddenError) Error() string { return e.text }

// client follows no redirection to another host, and connects to no address that the rules refuse: they are held
// against the address that a connection is about to be made to, when no name can lead elsewhere any more.
func (r Rules) client() *http.Client {
	dialer := &net.Dialer{
		Timeout: 30 * time.Second,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			return r.reach(at.Addr())
		},
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext, transport.Proxy = dialer.DialContext, nil
	return &http.Client{CheckRedirect: sameHost, Transport: direct{transport, http.DefaultTransport.(*http.Transport).Clone()}}
}

// direct sends requests itself, unless the environment names a proxy for them: a proxy looks hosts up and is the
// network's own guard, so there only an address in the URI itself can be judged.
type direct struct{ guarded, proxied *http.Transport }

func (d direct) RoundTrip(request *http.Request) (*http.Response, error) {
	if proxy, err := http.ProxyFromEnvironment(request); err != nil || proxy == nil {
		return d.guarded.RoundTrip(request)
	}
	if a, err := netip.ParseAddr(request.URL.Hostname()); err == nil {
		if err := (Rules{}).reach(a); err != nil {
			return nil, err
		}
	}
	return d.proxied.RoundTrip(request)
}

// CloseIdleConnections is what http.Client calls.
func (d direct) CloseIdleConnections() {
	d.guarded.CloseIdleConnections()
	d.proxied.CloseIdleConnections()
}

// withoutURL is an error of an http.Client without the URI that it begins with, which may hold a signature.
func withoutURL(err error) error {
	var of *url.Error
	if errors.As(err, &of) {
		return of.Err
	}
	return err
}
