"""Evaluation of trained networks, and tables of the results.

- ``protocols``: declarations and specifications of evaluations, without torch; ``compute``: their computation.
- ``trained``, ``features``: a finished run and its frozen features. ``measure``, ``headline``: metrics of a training.
- ``results``: tables and figures, without torch. ``exchange``: import, export, predictions.
"""
