"""The fields of diffusers' scheduler configurations, with their defaults: what `scheduler_config` must know."""

from __future__ import annotations

import math
from typing import Any

BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "steps_offset": 0,
}
THRESHOLD = {"thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0}
CLIP = {"clip_sample": True, "clip_sample_range": 1.0}
ZERO_SNR = {"rescale_betas_zero_snr": False}
SPACED_SIGMAS = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
FLOW_SIGMAS = {"use_flow_sigmas": False, "flow_shift": 1.0, "use_dynamic_shifting": False}
LINSPACE, LEADING = {"timestep_spacing": "linspace"}, {"timestep_spacing": "leading"}
SHIFT_TYPE = {"time_shift_type": "exponential"}
LAST_SIGMA = {"final_sigmas_type": "zero"}
EDM_FIELDS = {
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "sigma_schedule": "karras",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rho": 7.0,
    **LAST_SIGMA,
}
MULTISTEP = {"solver_order": 2, "lower_order_final": True}
DPM = {**MULTISTEP, "algorithm_type": "dpmsolver++", "solver_type": "midpoint", "euler_at_final": False}
DISTILLED = {"original_inference_steps": 50, "timestep_scaling": 10.0, "set_alpha_to_one": True}

EDM_V = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}
"""Stable Video Diffusion's released scheduler: sigma from 700 to 0.002, rho 7, and the network told log(sigma) / 4."""

# Every field that the class of this name reads in diffusers 0.42, with its default there; a test compares the two.
FIELDS: dict[str, dict[str, Any]] = {
    "DDPMScheduler": {**BETAS, **CLIP, **THRESHOLD, **LEADING, **ZERO_SNR, "variance_type": "fixed_small"},
    "DDIMScheduler": {**BETAS, **CLIP, **THRESHOLD, **LEADING, **ZERO_SNR, "set_alpha_to_one": True},
    "PNDMScheduler": {**BETAS, **LEADING, "skip_prk_steps": False, "set_alpha_to_one": False},
    "LCMScheduler": {
        **BETAS,
        **CLIP,
        **THRESHOLD,
        **LEADING,
        **ZERO_SNR,
        **DISTILLED,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
    },
    "EulerDiscreteScheduler": {
        **BETAS,
        **SPACED_SIGMAS,
        **LINSPACE,
        **ZERO_SNR,
        **LAST_SIGMA,
        "interpolation_type": "linear",
        "sigma_min": None,
        "sigma_max": None,
        "timestep_type": "discrete",
    },
    "EulerAncestralDiscreteScheduler": {**BETAS, **LINSPACE, **ZERO_SNR},
    "HeunDiscreteScheduler": {
        **BETAS,
        **SPACED_SIGMAS,
        **LINSPACE,
        **CLIP,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "clip_sample": False,
    },
    "LMSDiscreteScheduler": {**BETAS, **SPACED_SIGMAS, **LINSPACE},
    "DPMSolverMultistepScheduler": {
        **BETAS,
        **THRESHOLD,
        **SPACED_SIGMAS,
        **FLOW_SIGMAS,
        **LINSPACE,
        **ZERO_SNR,
        **LAST_SIGMA,
        **SHIFT_TYPE,
        **DPM,
        "use_lu_lambdas": False,
        "lambda_min_clipped": -math.inf,
        "variance_type": None,
    },
    "UniPCMultistepScheduler": {
        **BETAS,
        **THRESHOLD,
        **SPACED_SIGMAS,
        **FLOW_SIGMAS,
        **LINSPACE,
        **ZERO_SNR,
        **LAST_SIGMA,
        **SHIFT_TYPE,
        **MULTISTEP,
        "predict_x0": True,
        "solver_type": "bh2",
        "disable_corrector": [],
        "solver_p": None,
        "sigma_min": None,
        "sigma_max": None,
        "shift_terminal": None,
    },
    "EDMEulerScheduler": EDM_FIELDS,
    "EDMDPMSolverMultistepScheduler": {**EDM_FIELDS, **THRESHOLD, **DPM},
    "FlowMatchEulerDiscreteScheduler": {
        **SPACED_SIGMAS,
        **SHIFT_TYPE,
        "num_train_timesteps": 1000,
        "shift": 1.0,
        "use_dynamic_shifting": False,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
        "invert_sigmas": False,
        "shift_terminal": None,
        "stochastic_sampling": False,
    },
    "FlowMatchHeunDiscreteScheduler": {"num_train_timesteps": 1000, "shift": 1.0},
}

# Fields that checkpoints inherit from a scheduler they were converted from, and which say nothing to another class:
# they steer only that class's solver, or scale something that is switched off.
INERT = {
    "skip_prk_steps",
    "set_alpha_to_one",
    "clip_sample_range",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "solver_order",
    "solver_type",
    "algorithm_type",
    "lower_order_final",
}
