"""Quantisation: the tensors and their grids, the integer network in PyTorch, calibration, QAT, analysis."""
