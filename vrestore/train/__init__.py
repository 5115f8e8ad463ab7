"""Training: data, losses, one readable loop."""
