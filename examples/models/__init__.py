"""Trained transformers in NumPy with attention by cpuattn, for the scripts in the folder above."""
