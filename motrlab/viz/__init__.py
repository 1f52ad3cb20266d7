"""Pictures: overlays on frames, curves and bars, widgets to explore with."""
