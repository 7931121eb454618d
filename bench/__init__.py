"""Measurements with budgets (DESIGN section 9). Each prints lines for people and, last, one JSON object."""
