"""Measurements: quality on images, latency, memory and complexity, as rows with conditions."""
