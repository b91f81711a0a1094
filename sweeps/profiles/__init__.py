"""The scales at which the paper is run.

- `profile`: the type of a profile.
- `smoke`, `quick`, `mini`, `cifar10`, `stl10`, `imagenette`, `imagenet`: one profile each, with the reason for its
  values.
- `scaling`: the EMA scaling rule.
- `shared`, `fashion`: values that several profiles share.
- `registry`: profiles by name.
"""
