"""Feature extractors.

- ``registry``: names and sizes, without torch; each network is imported when it is built.
- ``libraries``: networks of timm and torchvision. ``measure``: width, size and norms of a network.
- ``small``: a small ResNet for CPUs.
- ``resnet``: torchvision's ResNets, also for small images and with wider layers.
- ``wide``: wide ResNets for small images.
- ``state``: load a backbone from a checkpoint; recompute its blocks in the backward pass.
"""
