package ipam_test

func addressStories() []story {
	return []story{
		{"the gateway comes first and the network's and the broadcast address never", `
			pool web 10.0.0.0/29
			address web gateway = 10.0.0.1/29
			address web = 10.0.0.2/29
			address web = 10.0.0.3/29
			address web = 10.0.0.4/29
			address web = 10.0.0.5/29
			address web = 10.0.0.6/29
			address web spent! pool 10.0.0.0/29: nothing free: 5 leased, 1 reserved
			address web 10.0.0.0 ! is the network's own address
			address web 10.0.0.7 ! is the broadcast address`},
		{"a freed address rests while others are free, and then the longest rested is next", `
			pool web 10.0.0.0/29
			address web = 10.0.0.1/29
			address web = 10.0.0.2/29
			address web = 10.0.0.3/29
			release web 10.0.0.2
			release web 10.0.0.1
			address web = 10.0.0.4/29
			address web = 10.0.0.5/29
			address web = 10.0.0.6/29
			address web = 10.0.0.2/29
			address web = 10.0.0.1/29
			address web spent! nothing free`},
		{"a resting address is given to whoever names it and loses its place", `
			pool web 10.0.0.0/30
			address web = 10.0.0.1/30
			address web = 10.0.0.2/30
			release web 10.0.0.1
			release web 10.0.0.2
			address web 10.0.0.1 by db = 10.0.0.1/30
			release web 10.0.0.1
			address web = 10.0.0.2/30
			address web = 10.0.0.1/30`},
		{"a range limits what is chosen and not what is named", `
			pool web 10.0.0.0/24 10.0.0.128/30
			address web gateway = 10.0.0.128/24
			address web = 10.0.0.129/24
			address web 10.0.0.7 by db = 10.0.0.7/24
			address web = 10.0.0.130/24
			address web = 10.0.0.131/24
			address web spent! in range 10.0.0.128/30
			release web 10.0.0.7
			address web spent! nothing free
			address web 10.0.1.1 ! lies outside the pool
			address web fd00::1 ! lies outside the pool`},
		{"a range at the edge of its pool spares network and broadcast address", `
			pool low 10.0.0.0/24 10.0.0.0/31
			address low = 10.0.0.1/24
			address low spent! nothing free
			pool high 10.0.1.0/24 10.0.1.254/31
			address high = 10.0.1.254/24
			address high spent! nothing free
			pool none 10.0.2.0/24 10.0.2.255/32 ! no address in it can be given`},
		{"a gateway asked for by name is kept from everybody else", `
			pool web 10.0.0.0/29
			address web 10.0.0.1 gateway = 10.0.0.1/29
			address web 10.0.0.1 gateway taken! the network's gateway address
			address web 10.0.0.1 by db taken! the network's gateway address
			address web = 10.0.0.2/29`},
		{"a repeat is a second request", `
			pool web 10.0.0.0/29
			address web gateway = 10.0.0.1/29
			address web gateway = 10.0.0.2/29
			address web by db = 10.0.0.3/29
			address web by db = 10.0.0.4/29
			address web 10.0.0.6 by db = 10.0.0.6/29
			address web 10.0.0.6 by db taken! request address 10.0.0.6: pool 10.0.0.0/29: already taken: leased to db
			address web 10.0.0.5 = 10.0.0.5/29
			address web 10.0.0.5 taken! leased`},
		{"two addresses are two hosts, and one is one", `
			pool pair 10.0.0.0/31
			address pair = 10.0.0.0/31
			address pair = 10.0.0.1/31
			address pair spent! nothing free
			pool one 10.0.0.2/32
			address one = 10.0.0.2/32
			address one spent! nothing free
			pool pair6 fd00::/127
			address pair6 = fd00::/127
			address pair6 = fd00::1/127`},
		{"the first address of an IPv6 pool is skipped, the last is not", `
			pool six fd00::/126
			address six = fd00::1/126
			address six = fd00::2/126
			address six = fd00::3/126
			address six spent! nothing free
			address six fd00:: ! is the subnet-router anycast address
			pool link fe80::/64
			address link gateway = fe80::1/64
			address link fe80::2%eth0 ! lies outside the pool`},
		{"pools at the ends of the address space can be used up", `
			pool four 255.255.255.252/31
			address four = 255.255.255.252/31
			address four = 255.255.255.253/31
			address four spent! nothing free
			release four 255.255.255.253
			address four = 255.255.255.253/31`},
		{"an unknown pool gives nothing, and takes everything back", `
			address none ! pool none: no such pool
			release none 10.0.0.1
			release none
			use none 3f2a ! no such pool
			pool web 10.0.0.0/29
			release web 10.0.0.5
			release web 10.9.9.9
			address web = 10.0.0.1/29`},
	}
}

func poolStories() []story {
	return []story{
		{"a pool that overlaps another is refused, whichever is wider", `
			pool web 10.0.0.0/16 = 10.0.0.0/16
			pool same 10.0.0.0/16 taken! request pool 10.0.0.0/16: already taken: pool 10.0.0.0/16, given away but not used yet
			pool part 10.0.9.0/24 taken! pool 10.0.0.0/16
			use web 3f2a
			pool wide 10.0.0.0/8 taken! pool 10.0.0.0/16 of network 3f2a
			pool next 10.1.0.0/16 = 10.1.0.0/16
			release web
			pool part 10.0.9.0/24 = 10.0.9.0/24`},
		{"host bits are dropped as Docker drops them", `
			pool web 10.0.0.9/24 10.0.0.131/25 = 10.0.0.0/24
			address web = 10.0.0.128/24`},
		{"what can be no subnet is refused", `
			pool a 127.1.0.0/16 ! 127.0.0.0/8 is loopback
			pool a 0.9.0.0/16 ! 0.0.0.0/8 means this host
			pool a 224.1.0.0/24 ! 224.0.0.0/4 is multicast
			pool a ff02::/64 ! ff00::/8 is multicast
			pool a ::ffff:10.0.0.0/120 ! is IPv4 written as IPv6
			pool a 10.0.0.0/24 10.0.1.0/25 ! range 10.0.1.0/25 lies outside
			pool a 10.0.0.0/24 10.0.0.0/16 ! range 10.0.0.0/16 lies outside
			pool a 0.0.0.0/24 10.0.0.0/25 ! only a pool asked for by prefix has one`},
		{"each pool that is chosen is the next one", `
			pool a = 172.30.0.0/24
			pool b = 172.30.1.0/24
			pool c 172.30.2.0/23
			pool d = 172.30.4.0/24
			release a
			pool e = 172.30.0.0/24`},
		{"a pool is chosen in the size that is asked for", `
			pool a 0.0.0.0/26 = 172.30.0.0/26
			pool b 0.0.0.0/24 = 172.30.1.0/24
			pool c 0.0.0.0/26 = 172.30.0.64/26
			pool d 0.0.0.0/13 = 10.208.0.0/13
			pool e 0.0.0.0/13 = 10.216.0.0/13
			pool f 0.0.0.0/13 spent! every /13 of 10.208.0.0/12 overlaps pools in use: 2
			pool g 0.0.0.0/8 spent! no /8 fits into 172.30.0.0/16, 10.208.0.0/12
			pool h 0.0.0.0/0 spent! no /0 fits`},
		{"a chosen pool keeps away from what the host has", `
			obstacle 172.30.0.5/32 address 172.30.0.5/32 of eth0
			obstacle 172.30.1.0/25 address 172.30.1.1/25 of eth1
			obstacle 172.30.1.53/32 nameserver 172.30.1.53
			obstacle weak 172.30.2.0/23 route to 172.30.2.0/23
			pool a = 172.30.4.0/24
			pool named 172.30.0.0/24 = 172.30.0.0/24`},
		{"where all is routed to elsewhere, the routes are overlapped, addresses still not", `
			obstacle weak 172.16.0.0/12 route to 172.16.0.0/12 via tun0
			obstacle weak 10.0.0.0/8 route to 10.0.0.0/8 via tun0
			obstacle 172.30.0.1/32 address 172.30.0.1/32 of eth0
			pool a = 172.30.1.0/24`},
		{"when nothing is left, the error says what was tried and what stands there", `
			obstacle 172.16.0.0/12 address 172.16.0.1/12 of eth0
			obstacle 10.0.0.0/8 address 10.0.0.1/8 of eth1
			obstacle 192.168.1.0/24 address 192.168.1.2/24 of eth2
			pool a spent! every /24 of 172.30.0.0/16, 10.208.0.0/12 overlaps address 172.16.0.1/12 of eth0, address 10.0.0.1/8 of eth1`},
		{"the bridges of pools that are counted are not named one by one", `
			pool a 0.0.0.0/16 = 172.30.0.0/16
			obstacle 172.30.0.1/16 address 172.30.0.1/16 of dbr3f2a
			obstacle 10.208.0.0/12 address 10.208.0.1/12 of eth0
			pool b spent! every /24 of 172.30.0.0/16, 10.208.0.0/12 overlaps address 10.208.0.1/12 of eth0, pools in use: 1`},
		{"prefixes of IPv6 may be as wide as there are any", `
			pool wide fd00::/8
			address wide gateway = fd00::1/8
			pool provider 2000::/4 2001:db8::/64
			address provider = 2001:db8::/4
			address provider = 2001:db8::1/4
			address provider 2fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff by db = 2fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/4
			pool narrow 4600::/126
			pool a ::/47 spent! no /47 fits into`},
		{"link-local subnets are pools like others", `
			pool link fe80::/64
			address link gateway = fe80::1/64
			address link = fe80::2/64
			pool other fe80:1234::/64
			address other gateway = fe80:1234::1/64
			address other fe80:1234::9 by db = fe80:1234::9/64
			pool again fe80::/64 taken! pool fe80::/64`},
		{"every address of a network without a gateway can be used where there are but two", `
			pool pair 10.0.0.0/31
			use pair 3f2a
			address pair by web = 10.0.0.0/31
			address pair by db = 10.0.0.1/31
			pool pair6 fd00::/127
			use pair6 9c1b
			address pair6 by web = fd00::/127
			address pair6 by db = fd00::1/127
			pool one6 fd00::2/128
			address one6 by web = fd00::2/128`},
		{"IPv6 pools come from one prefix of the host's own", `
			pool a v6 = ULA:0000::/64
			pool b v6 = ULA:0001::/64
			restart
			pool c v6 = ULA:0002::/64
			reboot
			pool d ::/56 = ULA:0100::/56
			release a
			pool e v6 = ULA:0000::/64`},
	}
}

func lifeStories() []story {
	return []story{
		{"a restart forgets nothing that is held", `
			pool web 10.0.0.0/29
			address web gateway = 10.0.0.1/29
			address web 10.0.0.4 = 10.0.0.4/29
			address web by db = 10.0.0.2/29
			restart
			list = 10.0.0.0/29 10.0.0.1 gateway, 10.0.0.4 named, 10.0.0.2 leased db, 10.0.0.4 leased
			address web = 10.0.0.3/29
			address web 10.0.0.2 taken! leased to db
			address web 10.0.0.4 taken! leased`},
		{"a restart ends no rest, even that of the highest address or of one that was named", `
			pool web 10.0.0.0/29
			address web = 10.0.0.1/29
			address web = 10.0.0.2/29
			address web 10.0.0.4 by db = 10.0.0.4/29
			release web 10.0.0.4
			release web 10.0.0.2
			restart
			address web = 10.0.0.3/29
			address web = 10.0.0.5/29
			address web = 10.0.0.6/29
			address web = 10.0.0.4/29
			restart
			address web = 10.0.0.2/29
			address web spent! nothing free
			release web 10.0.0.6
			release web 10.0.0.1
			restart
			address web = 10.0.0.6/29`},
		{"a boot ends every rest, for nobody remembers", `
			pool web 10.0.0.0/29
			address web = 10.0.0.1/29
			release web 10.0.0.1
			reboot
			address web = 10.0.0.1/29`},
		{"a boot ends the leases, and keeps gateways and what was asked for by name", `
			pool web 10.0.0.0/29
			address web gateway = 10.0.0.1/29
			address web by db = 10.0.0.2/29
			address web 10.0.0.3 = 10.0.0.3/29
			reboot
			list = 10.0.0.0/29 10.0.0.1 gateway, 10.0.0.3 named
			address web = 10.0.0.2/29
			address web = 10.0.0.4/29
			address web 10.0.0.3 = 10.0.0.3/29
			address web 10.0.0.3 taken! leased`},
		{"a reserved address is given to a container that is known by name", `
			pool web 10.0.0.0/29
			address web 10.0.0.3 = 10.0.0.3/29
			reboot
			address web 10.0.0.3 by db = 10.0.0.3/29
			list = 10.0.0.0/29 10.0.0.3 named, 10.0.0.3 leased db
			release web 10.0.0.3
			list = 10.0.0.0/29`},
		{"an auxiliary address goes to no endpoint, not even after a boot", `
			pool web 10.0.0.0/29
			address web gateway = 10.0.0.1/29
			address web 10.0.0.3 = 10.0.0.3/29
			use web 3f2a 10.0.0.3
			list = 10.0.0.0/29 of 3f2a 10.0.0.1 gateway, 10.0.0.3 auxiliary
			address web 10.0.0.3 by db taken! the network's auxiliary address
			address web = 10.0.0.2/29
			address web = 10.0.0.4/29
			address web = 10.0.0.5/29
			address web = 10.0.0.6/29
			address web spent! nothing free: 4 leased, 2 reserved
			reboot
			address web 10.0.0.3 taken! the network's auxiliary address
			release web 10.0.0.3
			address web 10.0.0.3 by db = 10.0.0.3/29`},
		{"using a pool twice for one network changes nothing, for another it is refused", `
			pool web 10.0.0.0/29
			use web 3f2a 10.0.0.3
			use web 3f2a 10.0.0.3
			use web 9c1b taken! pool 10.0.0.0/29 of network 3f2a
			address web 10.0.0.4 by db = 10.0.0.4/29
			use web 3f2a 10.0.0.4 taken! auxiliary address 10.0.0.4: already taken: leased to db
			address web = 10.0.0.1/29
			use web 3f2a 10.0.0.1 taken! auxiliary address 10.0.0.1: already taken: leased
			release web 10.0.0.1
			use web 3f2a 10.1.0.4 ! auxiliary address 10.1.0.4: lies outside the pool
			list = 10.0.0.0/29 of 3f2a 10.0.0.3 auxiliary, 10.0.0.4 leased db`},
		{"a released pool takes all addresses along", `
			pool web 10.0.0.0/29
			address web gateway = 10.0.0.1/29
			address web by db = 10.0.0.2/29
			release web
			list =
			pool web2 10.0.0.0/29
			restart
			list = 10.0.0.0/29
			address web 10.0.0.2 ! no such pool`},
		{"a late release of an old pool spares the new one of the same prefix", `
			pool old 10.0.0.0/29
			release old
			pool new 10.0.0.0/29
			release old 10.0.0.1
			release old
			address new = 10.0.0.1/29`},
		{"what cannot be written has not happened", `
			pool web 10.0.0.0/29
			address web by db = 10.0.0.1/29
			fail
			pool more 10.1.0.0/29 ! save: disk on fire
			pool more ! request pool: save: disk on fire
			address web ! request address: pool 10.0.0.0/29: save: disk on fire
			release web 10.0.0.1 ! disk on fire
			release web ! disk on fire
			use web 3f2a ! disk on fire
			mend
			list = 10.0.0.0/29 10.0.0.1 leased db
			address web = 10.0.0.2/29
			pool more 10.1.0.0/29
			restart
			list = 10.0.0.0/29 10.0.0.1 leased db, 10.0.0.2 leased; 10.1.0.0/29`},
		{"a pool that nobody used within a minute yields to whoever wants the same", `
			pool lost 10.0.0.0/24
			later 59s
			pool web 10.0.0.0/24 taken! pool 10.0.0.0/24, given away but not used yet
			later 2s
			pool web 10.0.0.0/24 = 10.0.0.0/24
			address lost ! no such pool
			restart
			list = 10.0.0.0/24`},
		{"a pool that nobody used before a restart yields at once to whoever wants the same", `
			pool lost 10.0.0.0/24
			restart
			pool web 10.0.0.0/24 = 10.0.0.0/24
			pool more 10.0.0.0/24 taken! pool 10.0.0.0/24, given away but not used yet`},
		{"a pool that nobody used yields to no other that is named, since it may be a network's without a gateway", `
			pool lost 10.0.0.0/24
			later 1h
			pool web 10.0.0.0/16 taken! pool 10.0.0.0/24, given away but not used yet; if Docker has no network with it, drawbridge remove 10.0.0.0/24 gives it back
			restart
			address lost by db = 10.0.0.1/24`},
		{"a pool whose network is another driver's does not yield once it was used", `
			pool web 10.0.0.0/24
			later 1h
			address web by db = 10.0.0.1/24
			release web 10.0.0.1
			later 1h
			pool again 10.0.0.0/24 taken! pool 10.0.0.0/24`},
		{"pools that yield are chosen again only when all others are gone", `
			obstacle weak 10.0.0.0/8 route to 10.0.0.0/8 via tun0
			pool lost 0.0.0.0/17 = 172.30.0.0/17
			later 2m
			pool a 0.0.0.0/17 = 172.30.128.0/17
			address a gateway = 172.30.128.1/17
			pool b 0.0.0.0/17 = 172.30.0.0/17
			address lost ! no such pool
			address b gateway = 172.30.0.1/17
			pool c 0.0.0.0/17 = 10.208.0.0/17`},
		{"a pool that yields is chosen again before a route is overlapped", `
			obstacle weak 10.208.0.0/13 route to 10.208.0.0/13 via tun0
			pool lost 0.0.0.0/13 = 10.216.0.0/13
			later 2m
			pool a 0.0.0.0/13 = 10.216.0.0/13
			later 59s
			pool b 0.0.0.0/13 = 10.208.0.0/13
			later 2s
			pool c 0.0.0.0/13 = 10.216.0.0/13
			address c = 10.216.0.1/13
			later 2m
			pool d 0.0.0.0/13 = 10.208.0.0/13`},
		{"a pool that yields makes no way through one that does not", `
			pool lost1 172.30.0.0/18
			pool lost2 172.30.128.0/17
			pool web 172.30.64.0/18
			address web gateway = 172.30.64.1/18
			later 2m
			pool wide 0.0.0.0/17 = 10.208.0.0/17
			list = 10.208.0.0/17; 172.30.0.0/18; 172.30.64.0/18 172.30.64.1 gateway; 172.30.128.0/17`},
		{"an address that no endpoint of ours ever took is collected", `
			pool web 10.0.0.0/29
			address web gateway = 10.0.0.1/29
			use web 3f2a
			address web by db = 10.0.0.2/29
			address web by lost = 10.0.0.3/29
			address web 10.0.0.6 = 10.0.0.6/29
			collect 3f2a 10.0.0.2 =
			later 4m
			collect 3f2a 10.0.0.2 =
			later 61s
			collect 3f2a 10.0.0.2 = 10.0.0.3, 10.0.0.6
			restart
			list = 10.0.0.0/29 of 3f2a 10.0.0.1 gateway, 10.0.0.2 leased db`},
		{"an address that was missed only for a while is not collected", `
			pool web 10.0.0.0/29
			use web 3f2a
			address web by db = 10.0.0.1/29
			collect 3f2a =
			later 4m
			collect 3f2a 10.0.0.1 =
			later 4m
			collect 3f2a =
			release web 10.0.0.1
			address web 10.0.0.1 by web = 10.0.0.1/29
			later 4m
			collect 3f2a =`},
		{"another engine does not know what the one before had been given and had no use for yet", `
			pool web 10.0.0.0/29
			address web gateway = 10.0.0.1/29
			use web 3f2a
			address web by db = 10.0.0.2/29
			address web 10.0.0.3 = 10.0.0.3/29
			pool other 10.1.0.0/29
			address other gateway = 10.1.0.1/29
			address other by db = 10.1.0.2/29
			pool lost 10.2.0.0/29
			engine 3f2a 10.0.0.2 = 10.0.0.3
			address web 10.0.0.3 by app = 10.0.0.3/29
			pool again 10.2.0.0/29 = 10.2.0.0/29
			list = 10.0.0.0/29 of 3f2a 10.0.0.1 gateway, 10.0.0.2 leased db, 10.0.0.3 leased app; 10.1.0.0/29 10.1.0.1 gateway, 10.1.0.2 leased db; 10.2.0.0/29`},
		{"only what was given away before a restart is reclaimed, and of our networks only", `
			pool web 10.0.0.0/29
			use web 3f2a
			address web by db = 10.0.0.1/29
			address web 10.0.0.3 = 10.0.0.3/29
			address web gateway = 10.0.0.2/29
			reclaim web 10.0.0.1 = false
			pool other 10.1.0.0/29
			address other by db = 10.1.0.1/29
			restart
			address web by app = 10.0.0.4/29
			reclaim web 10.0.0.2 = false
			reclaim web 10.0.0.4 = false
			reclaim web 10.0.0.5 = false
			reclaim other 10.1.0.1 = false
			reclaim none 10.1.0.1 = false
			fail
			reclaim web 10.0.0.1 ! reclaim address 10.0.0.1: pool 10.0.0.0/29: save: disk on fire
			mend
			reclaim web 10.0.0.1 = true
			reclaim web 10.0.0.3 = true
			reclaim web 10.0.0.3 = false
			list = 10.0.0.0/29 of 3f2a 10.0.0.2 gateway, 10.0.0.4 leased app; 10.1.0.0/29 10.1.0.1 leased db`},
		{"the pool of a network that is gone is collected, another driver's is not", `
			pool web 10.0.0.0/29
			use web 3f2a
			pool macvlan 10.0.1.0/29
			address macvlan by db = 10.0.1.1/29
			collect none =
			later 6m
			collect none = 10.0.0.0/29
			list = 10.0.1.0/29 10.0.1.1 leased db`},
		{"nothing is collected that cannot be written", `
			pool web 10.0.0.0/29
			use web 3f2a
			pool api 10.0.1.0/29
			use api 9c1b
			address api = 10.0.1.1/29
			collect 9c1b =
			later 6m
			fail
			collect 9c1b ! collect pool
			collect 9c1b ! collect addresses of pool
			mend
			collect 9c1b = 10.0.0.0/29, 10.0.1.1`},
	}
}
