"""The tracker: who is in the fleet and who holds what, manifests and blobs from origins, deals and fills.

fleet.py         members, slots, leases, holders (pure)
choice.py        relay or swarm, and from whom (pure)
handout.py       which neighbours an agent gets in a swarm (pure)
generation.py    one blob's distribution: members, epochs, fills (pure)
manifests.py     tags and manifests, one request for all who ask
supply.py        the bytes of a blob: from an origin or the store, hashed, signed, dealt
distribution.py  joins, epochs, ends: the only one who changes generations
control.py       control connections
service.py       everything together, as a process
"""
