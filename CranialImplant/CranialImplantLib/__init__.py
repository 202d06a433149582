"""Cranial implants from a skull with a hole: several proposals, their mean and their spread. Importing it is cheap.

The one entry is `CranialImplantLib.pipeline.generate_implants(skull, options, progress)`.
For research, not for clinical use.
"""
