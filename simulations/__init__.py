"""What p2pdist is measured with: shaped networks, processes under watch, and models of the fleet."""
