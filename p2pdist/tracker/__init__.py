"""The tracker: who is in the fleet and who holds what, manifests and blobs from origins, deals and fills.

fleet.py         members, slots, leases, holders (pure)
choice.py        relay or swarm, and from whom (pure)
handout.py       which neighbours an agent gets in a swarm (pure)
generation.py    one blob's distribution: members, rings, shares, fills (pure)
slowness.py      which agents are slow, and which are silent (pure)
zones.py         which part of the fleet is dealt a copy of its own (pure)

admission.py     who may connect: TLS, enrolment, hello
control.py       messages from one agent
lines.py         queues of messages towards the agents
leases.py        leases granted, renewed, ended
table.py         the table of members, spread to everybody

origins.py       clients of the upstreams
flights.py       one request for all who ask for the same
manifests.py     tags and manifests
wishes.py        joins that wait for an answer
distribution.py  what becomes of a join
starting.py      the bytes of a blob, from an origin or the store
supply.py        hashed, signed, dealt
relaying.py      generations under way: entered, left, ended
epochs.py        their members, told to all, and fills
swarming.py      torrents and neighbours

main.py          everything together, as a process
"""
