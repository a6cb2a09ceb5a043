"""Gaussian diffusion on tensors: independent of RecBole and of the networks, every draw an argument."""
