"""From public shapes to the weights: preparation, training, measurement. The trainer alone needs no more than torch, numpy and scipy."""
