"""Replay: packs, which are answers as a file of text that git keeps, and what reads and writes them."""
