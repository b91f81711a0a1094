"""The parts of the GPU benchmark, `tests/benchmarks/gpu.py`: one module for each, and what they share."""
