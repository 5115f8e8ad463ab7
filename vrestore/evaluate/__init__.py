"""Metrics as the field computes them."""
