"""Equations of motion: differential equations that pass through the steps.

An optimizer's step is a map. `counter_term` expands the field whose flow is
that map in powers of the step size, with nested derivatives; `generator`
reads the same field off the iterates, for any step; `flow` follows a field;
`discretization` measures how far it is from the steps, `radius` whether it
exists. `memory` has the terms of steps with a memory, `modified_loss` the loss
that they descend. `step_map` makes a map of any torch optimizer, `models` a
function of its weights of any model, `symmetry` finds what the loss cannot see and
predicts its motion, and `probe` holds all of it against a real training run.
"""

from anthology.motion.counter_term import (
    counter_field,
    counter_terms,
    first_counter_term,
    motion_terms,
    second_counter_term,
)
from anthology.motion.discretization import (
    discretization_error,
    equation_of_motion,
    leading_error,
)
from anthology.motion.flow import flow
from anthology.motion.generator import generator
from anthology.motion.memory import (
    adam_braces,
    adam_sign_change,
    adam_terms,
    average_factor,
    averaged_terms,
    heavy_ball_terms,
    slow_start,
)
from anthology.motion.models import ravel_model
from anthology.motion.modified_loss import (
    Penalty,
    half_square,
    modified_loss,
    reshuffled_loss,
    smooth_l1,
    smooth_l2,
    smooth_nuclear,
)
from anthology.motion.probe.probe import Probe
from anthology.motion.radius import Radius, radius, sharpness
from anthology.motion.step_map import StepMap, step_map
from anthology.motion.symmetry.find import find_symmetries
from anthology.motion.symmetry.follow import SymmetryRun, follow_symmetry
from anthology.motion.symmetry.pieces import Cut, Symmetry
from anthology.motion.symmetry.rates import (
    effective_rate,
    equilibrium_angle,
    norm_equilibrium,
    norm_rate,
    norm_relaxation,
    norm_step,
    norm_velocity,
    translation_rate,
)

__all__ = [
    "Cut",
    "Penalty",
    "Probe",
    "Radius",
    "StepMap",
    "Symmetry",
    "SymmetryRun",
    "adam_braces",
    "adam_sign_change",
    "adam_terms",
    "average_factor",
    "averaged_terms",
    "counter_field",
    "counter_terms",
    "discretization_error",
    "effective_rate",
    "equation_of_motion",
    "equilibrium_angle",
    "find_symmetries",
    "first_counter_term",
    "flow",
    "follow_symmetry",
    "generator",
    "half_square",
    "heavy_ball_terms",
    "leading_error",
    "modified_loss",
    "motion_terms",
    "norm_equilibrium",
    "norm_rate",
    "norm_relaxation",
    "norm_step",
    "norm_velocity",
    "radius",
    "ravel_model",
    "reshuffled_loss",
    "second_counter_term",
    "sharpness",
    "slow_start",
    "smooth_l1",
    "smooth_l2",
    "smooth_nuclear",
    "step_map",
    "translation_rate",
]
