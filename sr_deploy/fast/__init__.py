"""The fastest form of a model that this machine can run, made once and kept in a cache."""
