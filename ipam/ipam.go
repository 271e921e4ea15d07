// Package ipam decides which pools and addresses Docker's networks get and
// remembers what it gave away. It does not touch the kernel, does not speak
// Docker's protocol, and does not know what a network or an endpoint is.
package ipam
