"""Many files: one after the other, restarts, machines."""
