"""Equations of motion: differential equations that pass through the steps.

An optimizer's step is a map. `counter_term` expands the field whose flow is
that map in powers of the step size, with nested derivatives; `generator`
reads the same field off the iterates, for any step; `flow` follows a field;
`discretization` measures how far it is from the steps.
"""

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
from anthology.motion.ravel import ravel_model

__all__ = [
    "counter_field",
    "counter_terms",
    "discretization_error",
    "equation_of_motion",
    "first_counter_term",
    "flow",
    "generator",
    "motion_terms",
    "ravel_model",
    "second_counter_term",
]
