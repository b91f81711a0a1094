"""Exponential moving average normalization (EMAN) in student-teacher training, and the platform to study it.

The pieces that serve outside this project::

    from eman.trainers.norm.teacher import Teacher          # a teacher for any torch.nn.Module
    from eman.trainers.norm.convert import convert_norm
    from eman.trainers.norm.schemes import SCHEMES
"""

__version__ = "0.1.0"
