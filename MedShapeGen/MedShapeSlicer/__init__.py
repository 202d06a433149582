"""The side of 3D Slicer: the only package that imports slicer, qt and ctk; it never imports torch or an engine."""
