package store

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/logger"
)

// slowStatement is when a statement is worth a line in the log.
const slowStatement = time.Second

// statementLogger logs slow statements without their values: GORM's own logger prints them, and they may be secret.
type statementLogger struct{ to *slog.Logger }

func (l *statementLogger) LogMode(logger.LogLevel) logger.Interface      { return l }
func (l *statementLogger) Info(context.Context, string, ...interface{})  {}
func (l *statementLogger) Warn(context.Context, string, ...interface{})  {}
func (l *statementLogger) Error(context.Context, string, ...interface{}) {}

// ParamsFilter keeps values out of the statement's text.
func (l *statementLogger) ParamsFilter(_ context.Context, sql string, _ ...interface{}) (string, []interface{}) {
	return sql, nil
}

func (l *statementLogger) Trace(ctx context.Context, begin time.Time, fc func() (string, int64), err error) {
	took := time.Since(begin)
	if took < slowStatement || errors.Is(err, gorm.ErrRecordNotFound) {
		return
	}
	sql, rows := fc()
	l.to.LogAttrs(ctx, slog.LevelWarn, "slow statement", slog.String("sql", sql), slog.Int64("rows", rows), slog.Duration("took", took))
}
