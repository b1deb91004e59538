"""Compile every kernel for an H100, for which no device is needed; a line for each."""

from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from anthology.kernels.device.entrywise import entrywise, entrywise_many
from anthology.kernels.device.prodigy import move_kernel, observe_kernel
from anthology.kernels.device.symmetric import product

H100 = GPUTarget("cuda", 90, 32)
WHOLE = {"n", "m", "blocks"} | {f"x_{x}" for x in ("batch", "row", "col")}
WHOLE |= {f"out_{x}" for x in ("batch", "row", "col")}
NARROW = {"p_ptr", "g_ptr", "x_ptr", "out_ptr", "p_like", "g_like"}
TYPES = {"table": "*i64", "owners": "*i64", "seed_ptr": "*i64", "finite_ptr": "*u8"}
TYPES |= {"rest_ptr": "*bf16", "rest_like": "*bf16"}
RULES = [("descent", False), ("sgd", True), ("signum", True), ("lion", False)]
RULES += [("adamw", False), ("rmsprop", False), ("rootfree", False)]
WORDS = ("wgmma", "tf32", "sqrt.rn", "sqrt.approx", "ld.global.v4", "st.global.v4")


def type_of(argument, low):
    """What a launch passes for an argument."""
    if argument in TYPES:
        return TYPES[argument]
    if argument in NARROW:
        return f"*{low}"
    if argument.endswith("_ptr") or argument in ("numbers", "sums"):
        return "*fp32"
    return "i32" if argument in WHOLE else "fp32"


def report(name, kernel, low, constants, **options):
    """Compile with parameters in `low` and say which instructions came of it."""
    signature, hints = {}, {}
    for place, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
            continue
        signature[argument] = type_of(argument, low)
        if signature[argument][0] == "*" or signature[argument] == "i32":
            # what a launch finds in tensors of PyTorch's own, of 16 numbers or 160
            hints[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, hints)
    made = compile_kernel(source, target=H100, options=options)
    words = [word for word in WORDS if word in made.asm["ptx"]]
    sass = made.asm["sass"]
    words += ["spills"] * ("LDL" in sass or "STL" in sass)
    print(name, low, len(made.asm["cubin"]) > 0, *words, flush=True)


for low in ("fp32", "bf16"):
    for rule, nesterov in RULES:
        flags = {"RULE": rule, "NESTEROV": nesterov, "CHECKED": True, "BLOCK": 1024}
        report(rule, entrywise, low, {**flags, "ROUNDING": "nearest"})
    flags["RULE"] = "adamw"  # the most registers
    for rounding in ("nearest", "stochastic", "compensated"):
        flags["ROUNDING"] = rounding
        if low == "bf16" and rounding != "nearest":
            report(f"adamw-{rounding}", entrywise, low, flags)
        if low == "bf16" or rounding == "nearest":
            report(f"many-{rounding}", entrywise_many, low, {**flags, "ALIGNED": True})
    report("odd", entrywise_many, low, {**flags, "ALIGNED": False})
    report("observe", observe_kernel, low, {"CHECKED": True, "BLOCK": 1024})
    report("move", move_kernel, low, {"CHECKED": True, "BLOCK": 1024})
    for add in (True, False):
        flags = {"ADD": add, "EVEN": True, "WIDEN": False, "TILE": 128}
        flags |= {"x_col": 1, "out_col": 1, "DEPTH": 32 if low == "fp32" else 64}
        flags["PRECISION"] = "ieee" if low == "fp32" else "tf32"
        report("product", product, low, flags, num_warps=8, num_stages=3)
