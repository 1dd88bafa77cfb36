"""Decoding on the CPU by compiled kernels that skip what a mask switches off."""
