"""What a syslet costs: a transition from atom to atom, and the memory of one that waits."""
