"""Attention over time within each tile, then over tiles within each step."""
