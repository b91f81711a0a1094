"""Protocols that turn a trained network into numbers, and tables made of those numbers."""
