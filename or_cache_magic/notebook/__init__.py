"""The notebook's edge: magic lines in, engine calls out."""
