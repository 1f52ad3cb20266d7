"""The tracker's rules and the one frame step. No torch at module level: decisions are made on NumPy arrays."""
