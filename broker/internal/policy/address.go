package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"keyward/broker/api"
)

// addresses is an inclusive range of IP addresses of one family.
type addresses struct{ low, high netip.Addr }

func (a addresses) has(ip netip.Addr) bool {
	return a.low.BitLen() == ip.BitLen() && a.low.Compare(ip) <= 0 && ip.Compare(a.high) <= 0
}

// parseIP reads one address of the family of a fact; IPv4-mapped IPv6 is IPv4.
func parseIP(fact api.FactName, s string) (netip.Addr, error) {
	ip, err := netip.ParseAddr(strings.TrimSpace(s))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", strings.TrimSpace(s))
	}
	if ip.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q: leave the zone out, it means nothing on another machine", s)
	}
	ip = ip.Unmap()
	return ip, checkFamily(fact, ip)
}

func checkFamily(fact api.FactName, ip netip.Addr) error {
	switch {
	case fact == api.FactSourceIPv4 && !ip.Is4():
		return fmt.Errorf("%s is an IPv6 address: use the rule %s", ip, titleOf(key{name: api.FactSourceIPv6}))
	case fact == api.FactSourceIPv6 && !ip.Is6():
		return fmt.Errorf("%s is an IPv4 address: use the rule %s", ip, titleOf(key{name: api.FactSourceIPv4}))
	}
	return nil
}

// parseAddresses reads an address or a prefix. A prefix with bits set behind its length is refused: it is a typing
// error as often as not, and guessing wrong would let strangers in.
func parseAddresses(fact api.FactName, s string) (addresses, error) {
	s = strings.TrimSpace(s)
	if !strings.Contains(s, "/") {
		ip, err := parseIP(fact, s)
		return addresses{ip, ip}, err
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return addresses{}, fmt.Errorf("%q is not an address prefix such as 192.0.2.0/24 or 2001:db8::/32", s)
	}
	if ip := prefix.Addr(); ip.Is4In6() {
		if prefix.Bits() < 96 {
			return addresses{}, fmt.Errorf("%s covers more than the IPv4-mapped addresses: write the IPv4 prefix", prefix)
		}
		prefix = netip.PrefixFrom(ip.Unmap(), prefix.Bits()-96)
	}
	if prefix != prefix.Masked() {
		return addresses{}, fmt.Errorf("%s has bits set behind its length: did you mean %s?", prefix, prefix.Masked())
	}
	return addresses{prefix.Addr(), lastOf(prefix)}, checkFamily(fact, prefix.Addr())
}

// lastOf is the highest address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	ip, _ := netip.AddrFromSlice(b)
	return ip
}

// parseAddressRange reads "low..high".
func parseAddressRange(fact api.FactName, s string) (addresses, error) {
	lowText, highText, err := cutRange(s)
	if err != nil {
		return addresses{}, err
	}
	low, err := parseIP(fact, lowText)
	if err != nil {
		return addresses{}, err
	}
	high, err := parseIP(fact, highText)
	if err != nil {
		return addresses{}, err
	}
	if high.Less(low) {
		return addresses{}, errRangeOrder
	}
	return addresses{low, high}, nil
}

func compileAddress(info FactInfo, c api.Condition) (test, error) {
	var ranges []addresses
	var err error
	switch c.Operator {
	case api.OpIn:
		ranges, err = parseEach(c.Value, func(s string) (addresses, error) { return parseAddresses(info.Name, s) })
	case api.OpBetween:
		ranges = make([]addresses, 1)
		ranges[0], err = parseAddressRange(info.Name, c.Value)
	case api.OpLessEqual, api.OpGreaterEqual:
		ranges = make([]addresses, 1)
		ranges[0].low, err = parseIP(info.Name, c.Value)
		ranges[0].high = ranges[0].low
	default:
		ranges = make([]addresses, 1)
		ranges[0], err = parseAddresses(info.Name, c.Value)
	}
	if err != nil {
		return nil, err
	}
	return func(values []string, _ time.Time) (bool, error) {
		text, err := scalar(values)
		if err != nil {
			return false, err
		}
		ip, err := parseIP(info.Name, text)
		if err != nil {
			return false, err
		}
		if c.Operator == api.OpIn {
			return slices.ContainsFunc(ranges, func(a addresses) bool { return a.has(ip) }), nil
		}
		return ordered(c.Operator, ip.Compare(ranges[0].low), ip.Compare(ranges[0].high)), nil
	}, nil
}
