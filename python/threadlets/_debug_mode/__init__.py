"""What debug mode checks around each request of a loop."""
