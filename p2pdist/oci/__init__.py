"""References, descriptors, manifests, errors and auth challenges of OCI registries (pure), and the origin client."""
