"""Who belongs to the fleet: certificates, join tokens, TLS contexts and vouches. No trio; sockets belong to callers."""
