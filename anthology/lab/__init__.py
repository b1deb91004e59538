"""What the chapters share and a user of the package does not need.

Checks that print one line, the model problems, real data, small networks, a
training loop, the style of the figures, and the figure with a slider.
"""

from . import problems
from .check import check, check_close, gap
from .data import Images, Text, cifar10, digits, images, mnist, text
from .explore import Explorer, explore
from .labels import label_line, label_lines
from .marks import Arrow, Axis, Line, Mark, Note, Panel, Points, Region
from .models import Transformer, conv_net, mlp, transformer
from .native import use_style
from .palette import STYLES, Style, style
from .probe_plots import probe_curves, probe_layers, probe_symmetries
from .runtime import budget, pick_device
from .slider import Frame, SliderFigure, slider_figure
from .tables import Measured, Table, least_costs, limit_shares, measured
from .training import Run, accuracy, cross_entropy, fit, mean_loss, sweep

__all__ = [
    "STYLES",
    "Arrow",
    "Axis",
    "Explorer",
    "Frame",
    "Images",
    "Line",
    "Mark",
    "Measured",
    "Note",
    "Panel",
    "Points",
    "Region",
    "Run",
    "SliderFigure",
    "Style",
    "Table",
    "Text",
    "Transformer",
    "accuracy",
    "budget",
    "check",
    "check_close",
    "cifar10",
    "conv_net",
    "cross_entropy",
    "digits",
    "explore",
    "fit",
    "gap",
    "images",
    "label_line",
    "label_lines",
    "least_costs",
    "limit_shares",
    "mean_loss",
    "measured",
    "mlp",
    "mnist",
    "pick_device",
    "probe_curves",
    "probe_layers",
    "probe_symmetries",
    "problems",
    "slider_figure",
    "style",
    "sweep",
    "text",
    "transformer",
    "use_style",
]
