"""Ask OpenRouter in a notebook cell, keep the answer, rerun for nothing."""
