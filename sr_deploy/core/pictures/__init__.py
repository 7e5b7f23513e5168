"""Picture files as bytes: their formats, metadata and damage."""
