"""The diffusion process as pure functions over tensors: no networks, no files, no global state.

Read in this order: `schedule` (how much noise), `parameterization` (what a network predicts), `denoiser` (the one
protocol), `samplers` (how to walk back), then `noise`, `guidance`, `objective` and `inversion`.
"""
