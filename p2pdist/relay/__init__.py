"""The live distribution of blobs by push: rules (pure), frames (sans-IO), and the data connections that carry them.

- spans: who sends a piece to whom: rings, arcs, places (pure)
- engine: the rules of one node: serve a span, acknowledge, return credit, take over (pure)
- dealing, dealer: which root is dealt the next piece; what a node deals of one generation (pure)
- liveness, lag: when a silent peer counts as frozen, and a child as slow (pure)
- frames, handshake: bytes in and out; who is at the other end (sans-IO)
- transfer: one generation of a blob: its file, its vouches, what was received from whom
- whole: a blob that its dealer holds, and the proofs of its pieces
- pacing: when the thread lets bytes gather (pure)
- parking: frames that came before the word of the tracker that explains them
- connection, session, links, switchboard: sockets, from one to all of them
- noting: what goes into the event log
- reactor: the thread that owns all of it; node: the door to it for the rest of the process
"""
