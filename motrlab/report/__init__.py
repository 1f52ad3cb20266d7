"""Records of a run → one HTML page."""
