package link

// For tests that prepare what a killed process leaves behind.
var (
	BirthMAC    = birthMAC
	NameServers = nameServers
)

// Begin says that a link is being changed until what it returns is called.
func (k *Kernel) Begin(name string) (done func()) {
	o, _ := k.planFor(name)
	return k.begin([]object{o})
}

// Straying is what Poll looks at.
func (k *Kernel) Straying() string { return k.strayingSettings() }
