"""Figures of the report, and the cards that show them."""
