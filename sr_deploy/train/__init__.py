"""How a checkpoint is made: patches, losses, recipes, and a run by Lightning."""
