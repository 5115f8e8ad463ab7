"""Files to frames and back. Knows nothing of networks."""
