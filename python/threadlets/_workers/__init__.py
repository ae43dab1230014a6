"""The Python side of a dispatcher's threads."""
