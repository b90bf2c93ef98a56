//go:build !purego

#include "textflag.h"

// func vzeroall()
TEXT ·vzeroall(SB), NOSPLIT, $0-0
	VZEROALL
	RET
