"""Import and export networks, and predict with them.

- `layouts`: how official checkpoints and torchvision's name their tensors.
- `importing`: a checkpoint as a finished run of the store.
- `export`: a run's backbone for torchvision or safetensors; `serving`: as a model that MLflow serves.
- `pictures`: image files as a network sees them; `predict`: a run's classes or nearest neighbours of them;
  `predictions`: the answers.
"""
