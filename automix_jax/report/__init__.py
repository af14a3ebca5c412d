"""What comes of several runs together."""
