"""Diffusion on tensors, Gaussian and other: independent of RecBole and of the networks, every draw an argument."""
