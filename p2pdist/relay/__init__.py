"""The live distribution of blobs by push: rules (pure), frames (sans-IO), and the data connections that carry them.

spans.py       who sends a piece to whom: rings, arcs, places (pure)
engine.py      the rules of one node: serve a span, acknowledge, return credit, take over, deal (pure)
frames.py      frames on a data connection, bytes in and out (pure)
handshake.py   who is at the other end: hello and proof (pure)
connection.py  one socket: what is read, what waits to be written
liveness.py    when a silent peer counts as frozen (pure)
transfer.py    one blob under way: its file, its vouches, what was received from whom
node.py        the thread that owns all of it, and the door for commands and notices
"""
