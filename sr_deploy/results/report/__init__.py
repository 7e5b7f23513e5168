"""The report: one HTML page, and figures for papers."""
