"""The agent: the daemon on each host. It answers the container daemon, takes part in relays and swarms, stores blobs.

content.py         what the shim needs of the rest: manifests and blobs by name
routes.py, shim.py the registry-compatible endpoint
library.py         what this host can have: the store, pulls under way, manifests from the tracker
pull.py            one blob wanted: which way, when the next, commit or give up
arrival.py         what those who bring a blob and those who wait for it share
sources.py         how long a way is waited for, and what then (pure)
by_relay.py        a blob that comes by relay
by_swarm.py        a blob that comes by swarm
rescue.py          what is missing, from the origin
commit.py          the digest, the torrent's hashes, the record
ahead.py           which small layers a daemon will ask for next (pure)
supplying.py       blobs that we deal because we hold them
relays.py          our part in every relay, for the tracker's and the relay thread's words
control.py         the connection to the tracker, and control_errors.py why it ended
service.py         what the tracker says, to the parts; what we hold, to the tracker
enrol.py           how this host gets its certificate; renewal.py how it keeps it
image_pull.py      POST /v1/pull: a whole image
account.py         where the bytes of a pull came from and what it waited for; explain.py says it, explained.py in types
front.py           the shim's listeners: before there is a shim, and while the agent drains
clients.py         which client of the shim got what last
checkup.py         what p2pdist doctor can't see from outside
report.py          what the admin address says, as types; status.py says it
guard.py           web pages don't use the admin address
main.py            everything together, as a process
"""
