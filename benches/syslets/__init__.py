"""The cost of a syslet: of a transition from atom to atom, and the memory of one that waits."""
