"""Rows of measurements, and all that derives from rows alone: tables, selection, the report."""
