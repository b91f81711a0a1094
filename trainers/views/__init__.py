"""Augmented views: deterministic draws, batched transforms, RandAugment, and the views by name."""
