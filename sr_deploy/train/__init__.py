"""Training: patches, losses, recipes, and runs with Lightning."""
