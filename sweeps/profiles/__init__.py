"""Scales at which the paper is run."""
