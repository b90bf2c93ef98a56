package server

import (
	"log/slog"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"keyward/broker/api"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/rootkey"
)

// metrics are what Prometheus scrapes. No label holds anything of a tenant.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	took     *prometheus.HistogramVec
	keys     *prometheus.CounterVec
	work     *prometheus.CounterVec
}

func newMetrics(version string) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keyward_http_requests_total", Help: "Finished HTTP requests."},
			[]string{"interface", "method", "route", "status"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "keyward_http_request_duration_seconds", Help: "Time to answer HTTP requests, long polls included.",
			Buckets: []float64{.001, .005, .02, .1, .5, 2, 10, 60}}, []string{"interface"}),
		keys: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keyward_key_request_transitions_total", Help: "Changes of key requests by the state that they lead to."},
			[]string{"status"}),
		work: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keyward_background_failures_total", Help: "Failed rounds of the broker's background work."},
			[]string{"work"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "keyward_build_info", Help: "Always 1; the label says which version runs.",
		ConstLabels: prometheus.Labels{"version": version}})
	build.Set(1)
	m.registry.MustRegister(m.requests, m.took, m.keys, m.work, build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// watchRoots shows, for each root key in another place, whether it answers and for how long the broker can go on without.
func (m *metrics) watchRoots(roots *keystore.Ring, clock func() time.Time) {
	for _, h := range rootkey.Remotes(roots) {
		labels := prometheus.Labels{"provider": string(h.Provider()), "key": h.ID()}
		m.registry.MustRegister(
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "keyward_root_key_reachable", Help: "1 while the root key answers, 0 while it does not.", ConstLabels: labels}, func() float64 {
				if h.Status().Err != nil {
					return 0
				}
				return 1
			}),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "keyward_root_key_kept_seconds", Help: "How long account keys that were opened before are still used when the root key does not answer.", ConstLabels: labels}, func() float64 {
				s := h.Status()
				return max(0, h.Keep().Seconds()-clock().Sub(s.AnsweredAt).Seconds())
			}))
	}
}

// observe counts the requests of one interface.
func (m *metrics) observe(name string) func(method, route string, status int, took time.Duration) {
	return func(method, route string, status int, took time.Duration) {
		m.requests.WithLabelValues(name, method, route, strconv.Itoa(status)).Inc()
		m.took.WithLabelValues(name).Observe(took.Seconds())
	}
}

// KeyRequestMoved implements keyrequest.Observer.
func (m *metrics) KeyRequestMoved(to api.KeyStatus) { m.keys.WithLabelValues(string(to)).Inc() }

// quietLogger takes what the HTTP engine says of broken connections.
type quietLogger struct{ to *slog.Logger }

func (q quietLogger) Printf(format string, args ...any) {
	q.to.Debug("connection", "said", formatted(format, args...))
}
