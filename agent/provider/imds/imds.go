// Package imds reads what EC2's instance metadata service, version 2, says of the machine that asks it.
package imds

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"keyward/broker/api"
)

const (
	// answerTime bounds one call: the service is on the same host.
	answerTime = 2 * time.Second
	// mostAnswer is the longest answer, bytes.
	mostAnswer = 32 << 10
	// tokenSeconds is how long the session of one reading lasts.
	tokenSeconds = "60"
)

// Client reads from one service. It uses no proxy: the address is of this host.
type Client struct {
	base string
	http *http.Client
}

// New names the service, http://169.254.169.254 on EC2.
func New(base string) *Client {
	return &Client{base: strings.TrimRight(base, "/"), http: &http.Client{Timeout: answerTime,
		Transport:     &http.Transport{DialContext: (&net.Dialer{Timeout: time.Second}).DialContext, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// Document is the instance's identity, signed with RSA-2048 and SHA-256.
func (c *Client) Document(ctx context.Context) (*api.CloudDocument, error) {
	token, err := c.call(ctx, http.MethodPut, "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", tokenSeconds)
	if err != nil {
		return nil, err
	}
	text, err := c.call(ctx, http.MethodGet, "/latest/dynamic/instance-identity/rsa2048", "X-aws-ec2-metadata-token", strings.TrimSpace(token))
	if err != nil {
		return nil, err
	}
	der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil || len(der) == 0 {
		return nil, fmt.Errorf("read the instance identity document: it is not base64 as EC2 gives it")
	}
	return &api.CloudDocument{Kind: api.CloudAWS, Document: der}, nil
}

func (c *Client) call(ctx context.Context, method, path, header, value string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, nil)
	if err != nil {
		return "", fmt.Errorf("ask the metadata service: %w", err)
	}
	r.Header.Set(header, value)
	answer, err := c.http.Do(r)
	if err != nil {
		return "", fmt.Errorf("ask the metadata service: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("ask the metadata service for %s: it answers %s", path, answer.Status)
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, mostAnswer+1))
	if err != nil {
		return "", fmt.Errorf("ask the metadata service for %s: %w", path, err)
	}
	if len(text) > mostAnswer {
		return "", fmt.Errorf("ask the metadata service for %s: it answers more than %d bytes", path, mostAnswer)
	}
	return string(text), nil
}

// OnEC2 says whether the firmware under sys names Amazon EC2. Nothing is asked over a network to find out.
func OnEC2(sys string) bool {
	for file, start := range map[string]string{"class/dmi/id/sys_vendor": "amazon ec2", "class/dmi/id/board_vendor": "amazon ec2", "hypervisor/uuid": "ec2"} {
		text, err := os.ReadFile(filepath.Join(sys, file))
		if err == nil && strings.HasPrefix(strings.ToLower(string(text)), start) {
			return true
		}
	}
	return false
}
