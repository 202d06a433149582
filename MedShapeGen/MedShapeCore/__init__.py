"""What both engines share: volumes, distances, surfaces, metrics, weights, jobs. Importing it is cheap."""

__version__ = "0.1.0"
