"""Shared by every room: errors, specs, manifests, targets, images, metrics. Needs numpy only."""
