package rbac

// Operation names what a route does. Every route of the console and of the people's interface declares exactly one.
type Operation string

// The operations, in the order of the matrix. Those of pages that are still to come are listed already, so that the
// table of separated duties is complete from the first release.
const (
	RunningInstancesRead    Operation = "running-instances.read"
	KeyRequestsDecide       Operation = "key-requests.decide"
	KeyRequestsAssignPolicy Operation = "key-requests.assign-policy"
	KeyRequestsRevoke       Operation = "key-requests.revoke"
	PoliciesRead            Operation = "policies.read"
	PoliciesWrite           Operation = "policies.write"
	IntegritySettingsRead   Operation = "integrity-settings.read"
	IntegritySettingsWrite  Operation = "integrity-settings.write"
	ImagesRead              Operation = "images.read"
	ImagesWrite             Operation = "images.write"
	DevicesRead             Operation = "devices.read"
	DevicesWrite            Operation = "devices.write"
	DevicesEncrypt          Operation = "devices.encrypt"
	DevicesUnconfigure      Operation = "devices.unconfigure"
	DevicesDelete           Operation = "devices.delete"
	RAIDSetsRead            Operation = "raid-sets.read"
	RAIDSetsWrite           Operation = "raid-sets.write"
	DevicesExport           Operation = "devices.export"
	ReportsRead             Operation = "reports.read"
	ReportsWrite            Operation = "reports.write"
	ReportsDeviceKeys       Operation = "reports.device-keys"
	LogsRead                Operation = "logs.read"
	LogsExport              Operation = "logs.export"
	LogsDelete              Operation = "logs.delete"
	UsersRead               Operation = "users.read"
	UsersWrite              Operation = "users.write"
	RolesRead               Operation = "roles.read"
	AccountRead             Operation = "account.read"
	EnrolmentTokensRead     Operation = "enrolment-tokens.read"
	EnrolmentTokensWrite    Operation = "enrolment-tokens.write"
	NotificationsRead       Operation = "notifications.read"
	NotificationsWrite      Operation = "notifications.write"
	DeepSecurityRead        Operation = "deep-security.read"
	DeepSecurityWrite       Operation = "deep-security.write"
	TimeSettingsRead        Operation = "time-settings.read"
	TimeSettingsWrite       Operation = "time-settings.write"
	LicenceRead             Operation = "licence.read"
	LicenceWrite            Operation = "licence.write"
	PasswordOwn             Operation = "password.own"
	SessionsOwn             Operation = "sessions.own"
)
