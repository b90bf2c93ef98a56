package policy

import (
	"slices"
	"strings"

	"keyward/broker/api"
)

var digestA, digestB = strings.Repeat("a1", 32), strings.Repeat("b2", 32)

// The rules on what runs on a machine: H-19, H-22 to H-25, A-30, packages, files and scripts, operator by operator.
var machineExpectations = []expectation{
	// A-30 OS patch level
	{api.FactOSPatchLevel, api.OpEqual, "12.11", []string{"12.11", "12.11.0"}, []string{"12.1", "12.12", "bookworm/sid"}},
	{api.FactOSPatchLevel, api.OpNotEqual, "12.0", []string{"12.1"}, []string{"12", "trixie"}},
	{api.FactOSPatchLevel, api.OpLess, "12.10", []string{"12.9"}, []string{"12.10"}},
	{api.FactOSPatchLevel, api.OpLessEqual, "12.10", []string{"12.10"}, []string{"12.11"}},
	{api.FactOSPatchLevel, api.OpGreater, "22.04.4", []string{"22.04.5"}, []string{"22.04.4", "22.04"}},
	{api.FactOSPatchLevel, api.OpGreaterEqual, "12.9", []string{"12.9", "12.11"}, []string{"12.8"}},
	{api.FactOSPatchLevel, api.OpBetween, "9.2..9.4", []string{"9.3"}, []string{"9.5"}},
	{api.FactOSUpdated, api.OpEqual, "2026-11-20", []string{"2026-11-20T04:00:00Z"}, []string{"2026-11-21T04:00:00Z", "today"}},
	{api.FactOSUpdated, api.OpLess, "2026-11-20", []string{"2026-11-19T23:00:00Z"}, []string{"2026-11-20T00:00:00Z"}},
	{api.FactOSUpdated, api.OpLessEqual, "now", []string{"2026-11-22T12:00:00Z"}, []string{"2026-11-22T12:00:01Z"}},
	{api.FactOSUpdated, api.OpGreater, "2026-11-20", []string{"2026-11-21T00:00:00Z"}, []string{"2026-11-20T23:59:59Z"}},
	{api.FactOSUpdated, api.OpGreaterEqual, "now-30d", []string{"2026-11-01T00:00:00Z"}, []string{"2026-10-01T00:00:00Z"}},
	{api.FactOSUpdated, api.OpBetween, "2026-11-01..2026-11-30", []string{"2026-11-30T23:00:00Z"}, []string{"2026-12-01T00:00:00Z"}},
	{api.FactOSUpdated, api.OpOlderThan, "86400", []string{"2026-11-20T00:00:00Z"}, []string{"2026-11-22T00:00:00Z"}},
	// Secure boot
	{api.FactSecureBoot, api.OpEqual, "enabled", []string{"enabled"}, []string{"disabled", "setup mode", "legacy BIOS", "", "Enabled"}},
	{api.FactSecureBoot, api.OpNotEqual, "setup mode", []string{"enabled", "disabled", "legacy BIOS"}, []string{"setup mode", "unknown"}},
	// Packages, as dpkg and rpm count
	{api.FactPackageVersion, api.OpEqual, "3.0.11-1~deb12u2", []string{"3.0.11-1~deb12u2", "0:3.0.11-1~deb12u2"}, []string{"3.0.11-1~deb12u1", "3.0.11-1", "?"}},
	{api.FactPackageVersion, api.OpNotEqual, "3.0.11-1~deb12u1", []string{"3.0.11-1~deb12u2"}, []string{"3.0.11-1~deb12u1", "not a version"}},
	{api.FactPackageVersion, api.OpLess, "3.0.11-1", []string{"3.0.11-1~deb12u2", "3.0.9-9"}, []string{"3.0.11-1", "3.0.11-1+b1"}},
	{api.FactPackageVersion, api.OpLessEqual, "1.0.2k-26.el7_9", []string{"1.0.2k-26.el7_9", "1.0.2k-25.el7_9"}, []string{"1.0.2k-26.el7_10"}},
	{api.FactPackageVersion, api.OpGreater, "2.0^20230101", []string{"2.0^20240101", "2.0.1"}, []string{"2.0", "2.0^20230101"}},
	{api.FactPackageVersion, api.OpGreaterEqual, "9.2", []string{"1:9.2p1-2+deb12u3", "9.2", "9.10"}, []string{"1:9.1p1-1", "2:8.9", "9.2~rc1"}},
	{api.FactPackageVersion, api.OpGreaterEqual, "2:9.0", []string{"2:9.0-1", "3:1.0"}, []string{"1:9.9-1", "10.0"}},
	{api.FactPackageVersion, api.OpBetween, "3.0..3.2", []string{"3.0", "3.1.4-1", "3.2"}, []string{"2.9", "3.2-1", "3.2.1"}},
	{api.FactPackageState, api.OpEqual, "not installed", []string{"not installed"}, []string{"installed", "incomplete", "gone"}},
	{api.FactPackageState, api.OpNotEqual, "incomplete", []string{"installed", "not installed"}, []string{"incomplete", "gone", ""}},
	// File digests
	{api.FactFileSHA256, api.OpEqual, digestA, []string{digestA, strings.ToUpper(digestA)}, []string{digestB, digestA[:62], ""}},
	{api.FactFileSHA256, api.OpNotEqual, strings.ToUpper(digestB), []string{digestA}, []string{digestB, "no digest"}},
	{api.FactFileSHA256, api.OpIn, digestA + ", " + digestB, []string{digestA, digestB}, []string{strings.Repeat("c3", 32)}},
	// Scripts
	{api.FactScriptText, api.OpEqual, "compliant", []string{"compliant"}, []string{"not compliant", "Compliant", ""}},
	{api.FactScriptText, api.OpNotEqual, "broken", []string{"well"}, []string{"broken"}},
	{api.FactScriptText, api.OpIn, "green, yellow", []string{"green", "yellow"}, []string{"red"}},
	{api.FactScriptText, api.OpStartsWith, "CIS ", []string{"CIS level 2"}, []string{"level CIS 2"}},
	{api.FactScriptText, api.OpContains, "level 2", []string{"CIS level 2"}, []string{"CIS level 1"}},
	{api.FactScriptText, api.OpMatches, `level [12]`, []string{"level 1"}, []string{"level 3", "a level 1"}},
	{api.FactScriptNumber, api.OpEqual, "17", []string{"17", "17.0", "17.00"}, []string{"17.0001", "170", "0x11", "1.7e1", ""}},
	{api.FactScriptNumber, api.OpNotEqual, "9007199254740993", []string{"9007199254740992"}, []string{"9007199254740993", "many"}},
	{api.FactScriptNumber, api.OpLess, "-2.5", []string{"-3"}, []string{"-2.5", "-2"}},
	{api.FactScriptNumber, api.OpLessEqual, "10", []string{"9", "10"}, []string{"10.1", "100"}},
	{api.FactScriptNumber, api.OpGreater, "9", []string{"10", "9.5"}, []string{"9", "-10", "NaN", "Inf"}},
	{api.FactScriptNumber, api.OpGreaterEqual, "0", []string{"0", "-0", "1"}, []string{"-1"}},
	{api.FactScriptNumber, api.OpBetween, "-1..1.5", []string{"-1", "0", "1.5"}, []string{"-1.1", "2"}},
	// H-22 Security Softwares
	{api.FactSecuritySoftware, api.OpContains, "Deep Security", []string{"Deep Security", "ClamAV|Deep Security"}, []string{"", "ClamAV", "Deep Security Agent"}},
	{api.FactSecuritySoftware, api.OpLacks, "OSSEC, Wazuh", []string{"", "ClamAV"}, []string{"Wazuh", "ClamAV|OSSEC"}},
	{api.FactSecuritySoftware, api.OpOnly, "ClamAV, Microsoft Defender", []string{"", "Microsoft Defender"}, []string{"ClamAV|Wazuh"}},
	// H-19 OSSEC Version, and H-25: of every product
	{api.FactSecurityVersion, api.OpEqual, "2.5.1", []string{"2.5.1", "2.5.1.0"}, []string{"2.5.10", "2.5"}},
	{api.FactSecurityVersion, api.OpNotEqual, "2.5.1", []string{"4.7.2"}, []string{"2.5.1"}},
	{api.FactSecurityVersion, api.OpLess, "4.8", []string{"4.7.9"}, []string{"4.8.0"}},
	{api.FactSecurityVersion, api.OpLessEqual, "4.8", []string{"4.8.0"}, []string{"4.8.1"}},
	{api.FactSecurityVersion, api.OpGreater, "4.8", []string{"4.10"}, []string{"4.8"}},
	{api.FactSecurityVersion, api.OpGreaterEqual, "2.5.1", []string{"2.5.1", "2.10"}, []string{"2.4.9"}},
	{api.FactSecurityVersion, api.OpBetween, "4.3..4.9", []string{"4.7.2"}, []string{"4.10.0"}},
	{api.FactSecurityState, api.OpEqual, "running", []string{"running"}, []string{"impaired", "stopped", "ok"}},
	{api.FactSecurityState, api.OpNotEqual, "stopped", []string{"running", "impaired"}, []string{"stopped", "dead"}},
	// H-23 Virus Scan Engine Version
	{api.FactAVEngine, api.OpEqual, "9.180.1104", []string{"9.180.1104"}, []string{"9.180.110"}},
	{api.FactAVEngine, api.OpNotEqual, "9.180.1104", []string{"9.180.1105"}, []string{"9.180.1104"}},
	{api.FactAVEngine, api.OpLess, "9.180", []string{"9.9"}, []string{"9.180"}},
	{api.FactAVEngine, api.OpLessEqual, "9.180", []string{"9.180.0"}, []string{"9.180.1"}},
	{api.FactAVEngine, api.OpGreater, "9.9", []string{"9.180"}, []string{"9.9"}},
	{api.FactAVEngine, api.OpGreaterEqual, "9.180.1104", []string{"9.180.1104"}, []string{"9.9.9999"}},
	{api.FactAVEngine, api.OpBetween, "1.0..1.4", []string{"1.3.2"}, []string{"1.4.6"}},
	// H-24 Virus Scan Pattern Version, its date and age
	{api.FactAVPattern, api.OpEqual, "7.753.00", []string{"7.753.00", "7.753"}, []string{"7.753.01"}},
	{api.FactAVPattern, api.OpNotEqual, "27400", []string{"27401"}, []string{"27400"}},
	{api.FactAVPattern, api.OpLess, "27400", []string{"9999"}, []string{"27400"}},
	{api.FactAVPattern, api.OpLessEqual, "27400", []string{"27400"}, []string{"27401"}},
	{api.FactAVPattern, api.OpGreater, "7.753.00", []string{"7.1000.00"}, []string{"7.99.00"}},
	{api.FactAVPattern, api.OpGreaterEqual, "7.753.00", []string{"7.753.00"}, []string{"7.752.99"}},
	{api.FactAVPattern, api.OpBetween, "27000..27999", []string{"27400"}, []string{"28000"}},
	{api.FactAVPatternDate, api.OpEqual, "2026-11-22", []string{"2026-11-22T08:30:12Z"}, []string{"2026-11-21T08:30:12Z"}},
	{api.FactAVPatternDate, api.OpLess, "now-3d", []string{"2026-11-19T11:59:59Z"}, []string{"2026-11-19T12:00:00Z"}},
	{api.FactAVPatternDate, api.OpLessEqual, "now", []string{"2026-11-22T12:00:00Z"}, []string{"2026-11-23T12:00:00Z"}},
	{api.FactAVPatternDate, api.OpGreater, "2026-11-20", []string{"2026-11-21T00:00:00Z"}, []string{"2026-11-20T12:00:00Z"}},
	{api.FactAVPatternDate, api.OpGreaterEqual, "now-3d", []string{"2026-11-19T12:00:00Z"}, []string{"2026-11-19T11:59:59Z", "Mon Sep  8 08:30:12 2025"}},
	{api.FactAVPatternDate, api.OpBetween, "now-7d..now", []string{"2026-11-20T00:00:00Z"}, []string{"2026-11-01T00:00:00Z", "2026-11-30T00:00:00Z"}},
	{api.FactAVPatternDate, api.OpOlderThan, "259200", []string{"2026-11-19T11:59:59Z"}, []string{"2026-11-19T12:00:00Z"}},
	{api.FactAVRealTime, api.OpEqual, "on", []string{"on"}, []string{"off", "yes"}},
	{api.FactAVRealTime, api.OpNotEqual, "off", []string{"on"}, []string{"off", ""}},
}

var everyExpectation = slices.Concat(expectations, machineExpectations, deepSecurityExpectations, signedExpectations)
