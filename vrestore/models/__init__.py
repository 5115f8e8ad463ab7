"""Networks: tensors in, tensors out. Knows nothing of files or of streaming."""
