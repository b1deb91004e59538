"""Equations of motion: differential equations that pass through the steps.

An optimizer's step is a map. `counter_term` expands the field whose flow is
that map in powers of the step size, with nested derivatives; `generator`
reads the same field off the iterates, for any step; `flow` follows a field;
`discretization` measures how far it is from the steps.
"""

from anthology.motion.adaptive import adam_braces, adam_sign_change, adam_terms
from anthology.motion.averages import (
    average_factor,
    averaged_terms,
    heavy_ball_terms,
    slow_start,
)
from anthology.motion.counter_term import (
    counter_field,
    counter_terms,
    first_counter_term,
    motion_terms,
    second_counter_term,
)
from anthology.motion.discretization import discretization_error, equation_of_motion
from anthology.motion.flow import flow
from anthology.motion.generator import generator
from anthology.motion.modified_loss import modified_loss, reshuffled_loss
from anthology.motion.penalties import (
    Penalty,
    half_square,
    smooth_l1,
    smooth_l2,
    smooth_nuclear,
)
from anthology.motion.probe import Probe
from anthology.motion.ravel import ravel_model
from anthology.motion.step_map import StepMap, step_map

__all__ = [
    "Penalty",
    "Probe",
    "StepMap",
    "adam_braces",
    "adam_sign_change",
    "adam_terms",
    "average_factor",
    "averaged_terms",
    "counter_field",
    "counter_terms",
    "discretization_error",
    "equation_of_motion",
    "first_counter_term",
    "flow",
    "generator",
    "half_square",
    "heavy_ball_terms",
    "modified_loss",
    "motion_terms",
    "ravel_model",
    "reshuffled_loss",
    "second_counter_term",
    "slow_start",
    "smooth_l1",
    "smooth_l2",
    "smooth_nuclear",
    "step_map",
]
