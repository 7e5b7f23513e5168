"""Rows of measurements, and what is derived from rows alone: tables, selection, the report."""
