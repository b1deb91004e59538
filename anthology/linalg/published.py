"""Constants of odd polynomials that others published, as facts of their sources."""

Coefficients = tuple[float, float, float]
"""(a, b, c) of the polynomial a·x + b·x³ + c·x⁵."""

MUON: Coefficients = (3.4445, -4.7750, 2.0315)
SETTLING: Coefficients = (2.0, -1.5, 0.5)
"""Fixes 1, with slope zero there: what DeepSeek-V4 ends with."""

YOU = tuple(
    (a / 1024, b / 1024, c / 1024)
    for a, b, c in (
        (3955, -8306, 5008),
        (3735, -6681, 3463),
        (3799, -6499, 3211),
        (4019, -6385, 2906),
        (2677, -3029, 1162),
        (2172, -1833, 682),
    )
)

QUINTIC: tuple[Coefficients, ...] = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)

CANS: tuple[Coefficients, ...] = (
    (8.4703, -25.1081, 18.6293),
    (4.1828, -3.1087, 0.5806),
    (3.9619, -2.9541, 0.5630),
    (3.2866, -2.4647, 0.5074),
    (2.2737, -1.6447, 0.4162),
)
"""Leaves (0, 2) for a singular value above 1.00001, and then grows without bound."""

CUBIC5: tuple[Coefficients, ...] = (
    (3.3656576, -3.3420992, 0.0),
    (2.5744352, -1.4957376, 0.0),
    (2.5368962, -1.4312570, 0.0),
    (2.4418906, -1.2764040, 0.0),
    (2.2230472, -0.9630650, 0.0),
)
"""Turns a direction round for a singular value above 1.0035."""

AOL: tuple[Coefficients, ...] = (
    (4.6051, -9.6552, 5.6769),
    (4.7505, -6.0861, 2.1790),
    (2.7763, -2.3190, 0.5523),
    (2.4231, -2.2861, 0.8193),
)
"""The authors' second list; their first one turns directions round."""
