package client

import (
	"context"
	"net/http"

	"keyward/broker/api"
)

// Ask asks for the key of one device with evidence for a fresh nonce. The nonce is made of the connection that the request
// goes out on, which saves the call that fetches one. Where that cannot be (a proxy is on the way, nothing can be
// dialled, the connection breaks, the broker is of an older version) the nonce is fetched.
//
// collect makes the request, with its evidence and an HPKE key of its own, for a nonce. It is called once, or twice when
// the broker refused the first nonce; never more.
func (a *Agent) Ask(ctx context.Context, collect func(nonce string) (api.KeyRequest, error)) (api.KeyRequestStatus, error) {
	out, asked, err := a.askOnLine(ctx, collect)
	if asked && !Is(err, "nonce-refused") {
		return out, err
	}
	nonce, err := a.Nonce(ctx)
	if err != nil {
		return out, err
	}
	in, err := collect(nonce.Nonce)
	if err != nil {
		return out, err
	}
	return a.Request(ctx, in)
}

// askOnLine asks on a connection whose nonce the request answers. asked is false where nothing was sent.
func (a *Agent) askOnLine(ctx context.Context, collect func(nonce string) (api.KeyRequest, error)) (out api.KeyRequestStatus, asked bool, err error) {
	if a.fetches.Load() {
		return out, false, nil
	}
	l, err := a.call.lines.take(ctx, a.call.base)
	if err != nil { // fetching a nonce tries again, and says what is wrong
		return out, false, nil
	}
	defer a.call.lines.put(l)
	nonce, err := l.nonce()
	if err != nil {
		return out, false, nil
	}
	in, err := collect(nonce)
	if err != nil {
		return out, true, err
	}
	if !l.open() { // the broker waits for half a minute, and some evidence takes longer
		return out, false, nil
	}
	err = a.call.do(ctx, call{method: http.MethodPost, path: api.PathKeyRequests, in: in, out: &out, line: l})
	if Is(err, "nonce-refused") && !l.left {
		a.fetches.Store(true)
	}
	return out, true, err
}
