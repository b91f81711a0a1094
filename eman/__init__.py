"""Exponential moving average normalization (EMAN) in student-teacher training, and a platform to study it.

Parts for use in other projects::

    from eman.trainers.norm.teacher import Teacher          # a teacher for any torch.nn.Module
    from eman.trainers.norm.convert import convert_norm
    from eman.trainers.norm.schemes import SCHEMES
"""

__version__ = "0.1.0"
