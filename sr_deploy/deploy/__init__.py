"""From a model to all that a target needs, in one folder: what the command `deploy` does."""
