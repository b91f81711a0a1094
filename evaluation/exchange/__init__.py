"""Import and export networks, and predict with them.

- `layouts`: names of tensors in official checkpoints and torchvision's. `importing`: a checkpoint as a finished run.
- `export`: a run's backbone for torchvision or safetensors. `serving`: a run as a model that MLflow serves.
- `predict`: a run's classes or nearest neighbours for images. `pictures`: image files as a network's input.
"""
