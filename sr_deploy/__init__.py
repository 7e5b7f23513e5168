"""Put one trained, elastic super-resolution network on every GPU its user owns, at the size that fits each."""

__version__ = "0.1.0"
