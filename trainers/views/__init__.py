"""Views: augmentations of batches of images.

- ``options``: options from a run's specification. No torch.
- ``draws``: random numbers as a function of (seed, epoch, sample, view).
- ``transforms``, ``randaugment``: operations on batches.
- ``views``: the views by name.
"""
