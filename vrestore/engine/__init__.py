"""Networks over endless streams in bounded memory. Knows nothing of files."""
