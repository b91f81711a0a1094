"""Feature extractors.

- ``registry``: their names and widths, without torch; each network is imported when it is built.
- ``small``: the small ResNet for CPUs, and the blocks with fused norms.
- ``resnet``: torchvision's ResNets, also for small images and with wider layers.
- ``state``: loading a backbone from a checkpoint, and recomputing its blocks in the backward pass.
"""
