"""Prices, estimates, budgets, and the reconciliation of costs through ``GET /generation``."""
