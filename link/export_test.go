package link

// For tests that prepare what a killed process leaves behind.
var (
	BirthMAC    = birthMAC
	NameServers = nameServers
)
