"""What every stage shares: errors, specs, manifests, targets, images, metrics, rows. Needs only numpy (Python 3.8+)."""
