"""Figures from rows, beside what the papers printed."""
