"""Anatomical shapes in mm: sampled, reconstructed, interpolated, completed. Cheap to import; for research, not for clinical use."""
