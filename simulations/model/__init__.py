"""Protocol model: the relay's real rules (engine, spans, generation, choice) on an event heap with modelled links.

`links` says what a network is, `node` what an agent does, `steering` what the tracker does, `fleet` runs a scenario,
`figures` and `report` say how it went. README.md has what it answered.
"""
