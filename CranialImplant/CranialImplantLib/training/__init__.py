"""Training of the networks from one data pack. These modules need torch, numpy and scipy alone."""
