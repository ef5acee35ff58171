"""The shim beside nginx: a blob that an agent holds, and the same file from a web server, to the same client."""
