"""The same results from the instructions of other processors, and code for ARM that is what it should be."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

from llvmlite import binding, ir

from sparseact.engine.simd.isa import Target, dot_codes_ir, dot_nibbles_ir, half_to_float_ir
from sparseact.engine.simd.vectors import Emitter

on_x86 = pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="compiles for x86")


@on_x86
@pytest.mark.slow  # compiles all kernels anew for each processor
@pytest.mark.parametrize("cpu", ["x86-64-v3", "x86-64"])
def test_products_are_exact_on_older_processors(cpu):
    if cpu == "x86-64-v3" and not binding.get_host_cpu_features().get("avx2"):
        pytest.skip("this machine has no AVX2")
    chosen = "ends_of_their_range or rounds or rounded or zero or to_the_bit"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, "test_kernels.py"],
        cwd=Path(__file__).parents[1] / "kernels",
        env=os.environ | {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def instructions(triple, features, dot):
    """What LLVM makes of a product of bytes and of float16 for a processor with these features."""
    numbers, halves = ir.VectorType(ir.IntType(32), 16), ir.VectorType(ir.IntType(16), 16)
    octets, floats = ir.VectorType(ir.IntType(8), 64), ir.VectorType(ir.FloatType(), 16)
    kinds = [kind.as_pointer() for kind in (numbers, octets, octets, halves, floats)]
    module = ir.Module()
    module.triple = triple
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), "test")
    emitter = Emitter.__new__(Emitter)
    emitter.ir = ir.IRBuilder(function.append_basic_block())
    emitter.target = Target(triple.partition("-")[0], frozenset(features))
    acc, a, b, half, out = function.args
    load, store = emitter.ir.load, emitter.ir.store
    store(dot(emitter, load(acc), load(a), load(b)), acc)
    store(half_to_float_ir(emitter, load(half)), out)
    emitter.ir.ret_void()
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    machine = binding.Target.from_triple(module.triple).create_target_machine(
        cpu="" if triple[:3] == "x86" else "generic", features=",".join(f"+{feature}" for feature in features), opt=3
    )
    text = machine.emit_assembly(binding.parse_assembly(str(module)))
    return [
        line.replace("{vex}", "").split()[0]
        for line in text.splitlines()
        if line.startswith("\t") and line.strip()[0] != "."
    ]


@on_x86
@pytest.mark.parametrize("dot", [dot_codes_ir, lambda e, acc, a, b: dot_nibbles_ir(e, acc, [(a, b)])])
@pytest.mark.parametrize(
    ("features", "name", "times"),
    [
        (("avx2", "f16c"), "vpmaddubsw", 2),
        (("avx2", "f16c", "avxvnni"), "vpdpbusd", 2),
        (("avx2", "f16c", "avx512f", "avx512bw", "avx512vnni"), "vpdpbusd", 1),
    ],
)
def test_x86_multiplies_bytes_by_the_best_that_it_has(features, name, times, dot):
    found = instructions("x86_64-unknown-linux-gnu", features, dot)
    assert found.count(name) == times
    assert len(found) < 40
    assert not any(one.startswith("call") for one in found)


@pytest.mark.parametrize(
    ("features", "name", "times"), [((), "smlal", 8), (("dotprod",), "sdot", 12), (("dotprod", "i8mm"), "usdot", 4)]
)
def test_arm_has_its_own_products_of_bytes_and_no_calls(features, name, times):
    try:
        found = instructions("aarch64-unknown-linux-gnu", features, dot_codes_ir)
    except RuntimeError as error:
        pytest.skip(f"this LLVM does not know ARM: {error}")
    assert found.count(name) == times
    assert "bl" not in found
    assert "fcvtl" in found
