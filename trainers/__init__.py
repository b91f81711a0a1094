"""Schemes, teacher, methods, data and the training loop."""
