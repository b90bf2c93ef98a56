package account

// HashCheaply makes log-on take no time, for tests that do it often.
func (s *Service) HashCheaply() {
	s.hashing, s.refuseAfter = newHasher(parameters{memory: 64, time: 1, threads: 1}), 0
}
