package console

import (
	"net/http"

	"keyward/rbac"
)

// Route is a page or form of the console with the operation that it performs.
type Route struct {
	Method, Path string
	Operation    rbac.Operation
	handle       func(*visit) error
}

type openRoute struct {
	Method, Path string
	Handle       func(*visit) error
}

// openRoutes answer without a session.
var openRoutes = []openRoute{
	{http.MethodGet, "/logon", showLogOn},
	{http.MethodPost, "/logon", logOn},
	{http.MethodPost, "/preferences", savePreferences},
}

// Routes lists every page and form that needs a session. Every one names an operation of the matrix: a route without
// one does not compile into a permission, since the empty operation is refused to every role.
func Routes() []Route {
	const get, post = http.MethodGet, http.MethodPost
	return []Route{
		{get, "/", rbac.SessionsOwn, showStart},
		{post, "/logoff", rbac.SessionsOwn, logOff},
		{get, "/logon/code", rbac.SecondFactorOwn, showLogOnCode},
		{post, "/logon/code", rbac.SecondFactorOwn, logOnCode},
		{get, "/events/rows", rbac.SessionsOwn, streamRows},

		{get, "/instances", rbac.RunningInstancesRead, showRunning},
		{get, "/instances/:id", rbac.RunningInstancesRead, showInstance},
		{get, "/instances/:id/revoke-certificate", rbac.InstancesWrite, revokeCertificate.ofInstance},
		{post, "/instances/:id/revoke-certificate", rbac.InstancesWrite, revokeCertificate.ofInstance},
		{get, "/instances/:id/accept-key", rbac.InstancesWrite, acceptKey.ofInstance},
		{post, "/instances/:id/accept-key", rbac.InstancesWrite, acceptKey.ofInstance},
		{get, "/instances/:id/refuse-key", rbac.InstancesWrite, refuseKey.ofInstance},
		{post, "/instances/:id/refuse-key", rbac.InstancesWrite, refuseKey.ofInstance},
		{get, "/instances/:id/clear", rbac.KeyRequestsDecide, askClear},
		{post, "/instances/:id/clear", rbac.KeyRequestsDecide, clearInstance},
		{get, "/key-requests/:id", rbac.RunningInstancesRead, showRequest},
		{post, "/key-requests/:id/approve", rbac.KeyRequestsDecide, approveRequest},
		{post, "/key-requests/:id/deny", rbac.KeyRequestsDecide, denyRequest},
		{post, "/key-requests/:id/assign", rbac.KeyRequestsAssignPolicy, assignRequest},
		{get, "/key-requests/:id/revoke", rbac.KeyRequestsRevoke, askRevoke},
		{post, "/key-requests/:id/revoke", rbac.KeyRequestsRevoke, revokeRequest},

		{get, "/key-requests/:id/ignore", rbac.KeyRequestsRevoke, askIgnore},
		{post, "/key-requests/:id/ignore", rbac.KeyRequestsRevoke, ignoreRequest},
		{post, "/key-requests/:id/check", rbac.IntegrityChecksRun, checkRequest},
		{post, "/instances/:id/check", rbac.IntegrityChecksRun, checkInstance},
		{post, "/inventory/devices/:id/check", rbac.IntegrityChecksRun, checkDevice},
		{post, "/notices/:id/dismiss", rbac.KeyRequestsDecide, dismissNotice},

		{get, "/policies", rbac.PoliciesRead, showPolicies},
		{get, "/policies/checks", rbac.IntegritySettingsRead, showChecks},
		{post, "/policies/checks", rbac.IntegritySettingsWrite, saveChecks},
		{get, "/policies/new", rbac.PoliciesWrite, newPolicy},
		{post, "/policies/new", rbac.PoliciesWrite, savePolicy},
		{get, "/policies/delete", rbac.PoliciesWrite, askDeletePolicies},
		{post, "/policies/delete", rbac.PoliciesWrite, deletePolicies},
		{get, "/policies/:id", rbac.PoliciesRead, showPolicy},
		{post, "/policies/:id", rbac.PoliciesWrite, savePolicy},

		{get, "/inventory/images", rbac.ImagesRead, showImages},
		{get, "/inventory/images/:id", rbac.ImagesRead, showImage},
		{post, "/inventory/images/:id", rbac.ImagesWrite, saveImage},
		{get, "/inventory/images/:id/revoke-certificate", rbac.ImagesWrite, revokeImageCertificate.ofImage},
		{post, "/inventory/images/:id/revoke-certificate", rbac.ImagesWrite, revokeImageCertificate.ofImage},

		{get, "/inventory/devices", rbac.DevicesRead, showDevices},
		{get, "/inventory/devices/encrypt", rbac.DevicesEncrypt, askEncrypt},
		{post, "/inventory/devices/encrypt", rbac.DevicesEncrypt, encryptDevices},
		{get, "/inventory/devices/export", rbac.DevicesExport, askExport},
		{post, "/inventory/devices/export", rbac.DevicesExport, exportDevices},
		{get, "/inventory/devices/delete", rbac.DevicesDelete, askDeleteDevices},
		{post, "/inventory/devices/delete", rbac.DevicesDelete, deleteDevices},
		{get, "/inventory/devices/:id", rbac.DevicesRead, showDevice},
		{post, "/inventory/devices/:id", rbac.DevicesWrite, saveDevice},
		{get, "/inventory/devices/:id/copy", rbac.DevicesWrite, askCopy},
		{post, "/inventory/devices/:id/copy", rbac.DevicesWrite, copyConfiguration},
		{get, "/inventory/devices/:id/unconfigure", rbac.DevicesUnconfigure, askUnconfigure},
		{post, "/inventory/devices/:id/unconfigure", rbac.DevicesUnconfigure, unconfigureDevice},
		{get, "/inventory/devices/:id/cancel", rbac.DevicesEncrypt, askCancel},
		{post, "/inventory/devices/:id/cancel", rbac.DevicesEncrypt, cancelEncryption},
		{get, "/inventory/devices/:id/rotate-key", rbac.DevicesRotateKey, askRotate},
		{post, "/inventory/devices/:id/rotate-key", rbac.DevicesRotateKey, rotateKey},
		{get, "/inventory/devices/:id/cancel-rotation", rbac.DevicesRotateKey, askCancelRotation},
		{post, "/inventory/devices/:id/cancel-rotation", rbac.DevicesRotateKey, cancelRotation},
		{get, jobsPath, rbac.DevicesRead, showJobs},
		{get, exportsPath, rbac.KeyExportsRead, showExports},
		{get, exportsPath + "/:id", rbac.KeyExportsRead, showExport},
		{post, exportsPath + "/:id/approve", rbac.KeyExportsDecide, approveExport},
		{post, exportsPath + "/:id/deny", rbac.KeyExportsDecide, denyExport},
		{post, exportsPath + "/:id/cancel", rbac.DevicesExport, cancelExport},
		{post, exportsPath + "/:id/fetch", rbac.DevicesExport, fetchExport},
		{post, exportsPath + "/:id/set-recovery-key", rbac.RecoveryKeyWrite, setExportedRecoveryKey},
		{get, "/inventory/raid-sets/new", rbac.RAIDSetsWrite, newRAIDSet},
		{post, "/inventory/raid-sets/new", rbac.RAIDSetsWrite, createRAIDSet},
		{get, "/inventory/raid-sets/:id", rbac.RAIDSetsRead, showRAIDSet},
		{post, "/inventory/raid-sets/:id", rbac.RAIDSetsWrite, saveRAIDSet},

		{get, "/logs", rbac.LogsRead, showLogs},
		{get, "/logs/export.csv", rbac.LogsExport, exportCSV},
		{get, "/logs/export.jsonl", rbac.LogsExport, exportJSONL},
		{get, "/logs/archived", rbac.LogsRead, showArchives},
		{get, "/logs/archived/delete", rbac.LogsDelete, askDeleteArchives},
		{post, "/logs/archived/delete", rbac.LogsDelete, deleteArchives},
		{get, "/logs/proofs", rbac.LogsRead, showProofs},
		{get, "/logs/proofs/proof.json", rbac.LogsRead, downloadProof},
		{get, "/logs/proofs/checkpoint.json", rbac.LogsRead, downloadCheckpoint},
		{get, "/logs/proofs/audit.pem", rbac.LogsRead, downloadAuditKey},

		{get, "/admin/users", rbac.UsersRead, showUsers},
		{get, "/admin/users/new", rbac.UsersWrite, newUser},
		{post, "/admin/users/new", rbac.UsersWrite, createUser},
		{get, "/admin/users/delete", rbac.UsersWrite, askDeleteUsers},
		{post, "/admin/users/delete", rbac.UsersWrite, deleteUsers},
		{get, "/admin/users/:id", rbac.UsersRead, showUser},
		{post, "/admin/users/:id", rbac.UsersWrite, saveUser},
		{get, "/admin/users/:id/reset-factor", rbac.UsersWrite, askResetFactor},
		{post, "/admin/users/:id/reset-factor", rbac.UsersWrite, resetFactor},
		{get, "/admin/second-factor-settings", rbac.SecondFactorSettingsRead, showFactorSettings},
		{post, "/admin/second-factor-settings", rbac.SecondFactorSettingsWrite, saveFactorSettings},
		{get, "/admin/second-factor", rbac.SecondFactorOwn, showFactor},
		{post, "/admin/second-factor/start", rbac.SecondFactorOwn, startFactor},
		{post, "/admin/second-factor/confirm", rbac.SecondFactorOwn, confirmFactor},
		{post, "/admin/second-factor/show", rbac.SecondFactorOwn, showFactorCode},
		{post, "/admin/second-factor/codes", rbac.SecondFactorOwn, newRecoveryCodes},
		{post, "/admin/second-factor/remove", rbac.SecondFactorOwn, removeFactor},
		{get, "/admin/roles", rbac.RolesRead, showRoles},
		{get, "/admin/account", rbac.AccountRead, showAccount},
		{get, "/admin/tokens", rbac.EnrolmentTokensRead, showTokens},
		{get, "/admin/tokens/new", rbac.EnrolmentTokensWrite, newToken},
		{post, "/admin/tokens/new", rbac.EnrolmentTokensWrite, createToken},
		{get, "/admin/tokens/:id/delete", rbac.EnrolmentTokensWrite, askDeleteToken},
		{post, "/admin/tokens/:id/delete", rbac.EnrolmentTokensWrite, deleteToken},
		{get, "/admin/time", rbac.TimeSettingsRead, showTime},
		{post, "/admin/time", rbac.TimeSettingsWrite, saveTime},
		{get, recoveryPath, rbac.RecoveryKeyRead, showRecovery},
		{get, recoveryPath + "/set", rbac.RecoveryKeyWrite, askSetRecovery},
		{post, recoveryPath + "/set", rbac.RecoveryKeyWrite, setRecovery},
		{get, recoveryPath + "/remove", rbac.RecoveryKeyWrite, askRemoveRecovery},
		{post, recoveryPath + "/remove", rbac.RecoveryKeyWrite, removeRecovery},
		{get, exportSettingsPath, rbac.ExportSettingsRead, showExportSettings},
		{post, exportSettingsPath, rbac.ExportSettingsWrite, saveExportSettings},
		{get, deepSecurityPath, rbac.DeepSecurityRead, showDeepSecurity},
		{post, deepSecurityPath, rbac.DeepSecurityWrite, saveDeepSecurity},
		{post, deepSecurityPath + "/test", rbac.DeepSecurityWrite, testDeepSecurity},
		{get, "/admin/password", rbac.PasswordOwn, showPassword},
		{post, "/admin/password", rbac.PasswordOwn, savePassword},
		{get, "/admin/sessions", rbac.SessionsOwn, showSessions},
		{post, "/admin/sessions/:id/end", rbac.SessionsOwn, endSession},
	}
}
