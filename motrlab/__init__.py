"""motrlab: end-to-end multi-object tracking (MOTR), from raw MOT17 to a fixed-point tracker on open tools."""

__version__ = "0.1.0"
