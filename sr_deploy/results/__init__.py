"""Results: rows of measurements, and everything that is made from rows alone: protocols, tables, selection, the report."""
