"""Exponential moving average normalization (EMAN) in student-teacher training, and the platform to study it.

The pieces that serve outside this project::

    from eman.trainers.ema import Teacher          # a teacher for any torch.nn.Module
    from eman.trainers.norm import SCHEMES, convert_norm
"""

__version__ = "0.1.0"
