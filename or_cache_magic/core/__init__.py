"""Frozen values and pure decisions, each returning its reason. Imports nothing but `errors`."""
