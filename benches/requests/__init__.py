"""Very many requests that wait at once: parked, woken, cancelled, on asyncio's loops and others."""
