"""Building and measuring with a board's own TensorRT: over SSH, or with a bundle copied by hand."""
