"""The seed's load: 8,000 clients at a time at web servers that are started as their users start them."""
