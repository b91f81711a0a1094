"""Views of images, made in batches.

- ``options``: what a run says about its views. No torch.
- ``draws``: random numbers as a function of (seed, epoch, sample, view).
- ``transforms``, ``randaugment``: operations on batches.
- ``views``: the views by name.
"""
