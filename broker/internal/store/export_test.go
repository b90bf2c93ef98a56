package store

import "gorm.io/gorm"

// ExecForTest runs a statement past the gateway, as somebody with access to the database could.
func ExecForTest(s *Store, sql string, args ...any) error {
	_, err := s.backend.writerDB.Exec(sql, args...)
	return err
}

// RawForTest is GORM under the gateway.
func RawForTest(s *Store) *gorm.DB { return s.writer }

// ModelsForTest are all models.
func ModelsForTest() []any { return models() }
