"""Measurements with budgets. Each prints lines for people and, last, one JSON object."""
