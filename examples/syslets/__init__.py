"""Programs that leave their I/O to syslets: checksums, copying, tailing, fetching, and a proxy."""
