"""Building and measuring on a board that has only its own TensorRT: over SSH, or by a bundle carried there."""
