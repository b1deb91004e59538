"""Compile every kernel for an H100, for which no device is needed; a line for each."""

from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from anthology.kernels.device.entrywise import entrywise
from anthology.kernels.device.prodigy import move_kernel, observe_kernel
from anthology.kernels.device.symmetric import product

H100 = GPUTarget("cuda", 90, 32)
WHOLE = {"n", "m", "blocks"} | {f"x_{x}" for x in ("batch", "row", "col")}
WHOLE |= {f"out_{x}" for x in ("batch", "row", "col")}
RULES = [("sgd", True), ("signum", True), ("lion", False), ("adamw", False)]
RULES += [("rmsprop", False), ("rootfree", False)]


def report(name, kernel, low, constants, **options):
    """Compile with parameters in `low` and say which instructions came of it."""
    narrow = {"p_ptr", "g_ptr", "x_ptr", "out_ptr"}
    signature = {}
    for argument in kernel.arg_names:
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument == "finite_ptr":
            signature[argument] = "*u8"
        elif argument.endswith("_ptr") or argument in ("numbers", "sums"):
            signature[argument] = f"*{low if argument in narrow else 'fp32'}"
        else:
            signature[argument] = "i32" if argument in WHOLE else "fp32"
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    made = compile_kernel(source, target=H100, options=options)
    words = [
        w for w in ("wgmma", "tf32", "sqrt.rn", "sqrt.approx") if w in made.asm["ptx"]
    ]
    print(name, low, len(made.asm["cubin"]) > 0, *words, flush=True)


for low in ("fp32", "bf16"):
    for rule, nesterov in RULES:
        flags = {"RULE": rule, "NESTEROV": nesterov, "CHECKED": True, "BLOCK": 1024}
        report(rule, entrywise, low, flags)
    report("observe", observe_kernel, low, {"BLOCK": 1024})
    report("move", move_kernel, low, {"BLOCK": 1024})
    for add in (True, False):
        flags = {"ADD": add, "WIDEN": False, "TILE": 128, "DEPTH": 32}
        flags["PRECISION"] = "ieee" if low == "fp32" else "tf32"
        report("product", product, low, flags, num_warps=8)
