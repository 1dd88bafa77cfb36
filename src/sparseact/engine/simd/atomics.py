"""What threads tell each other through an int64 array: operations for compiled code."""

import sys
from typing import Any

from llvmlite import ir
from numba.core import types

from sparseact.engine.simd.vectors import Emitter, operation

_I64 = ir.IntType(64)


@operation(types.int64)
def atomic_add(e: Emitter, array: Any, i: Any, value: Any) -> ir.Value:
    """Add to an element and give what it was; everything written before is visible to who sees the sum."""
    return e.ir.atomic_rmw("add", e.pointer(array, i, _I64), e.scalar(value, 2, types.int64), "seq_cst")


@operation(types.int64)
def atomic_load(e: Emitter, array: Any, i: Any) -> ir.Value:
    """An element, and all that was written before whoever stored it stored it."""
    return e.ir.load_atomic(e.pointer(array, i, _I64), "acquire", 8)


@operation(types.void)
def atomic_store(e: Emitter, array: Any, i: Any, value: Any) -> ir.Value:
    """Set an element; everything written before is visible to who loads it."""
    e.ir.store_atomic(e.scalar(value, 2, types.int64), e.pointer(array, i, _I64), "release", 8)
    return e.context.get_dummy_value()


@operation(types.void)
def pause(e: Emitter) -> ir.Value:
    """Rest for a moment in a waiting loop, without leaving the processor."""
    if e.target.architecture == "x86_64":
        e.call("llvm.x86.sse2.pause", ir.VoidType())
    elif e.target.architecture in {"aarch64", "arm64"}:
        e.call("llvm.aarch64.hint", ir.VoidType(), ir.IntType(32)(1))
    return e.context.get_dummy_value()


@operation(types.void)
def give_way(e: Emitter) -> ir.Value:
    """Let another thread have the processor, if one wants it."""
    if sys.platform == "win32":
        e.call("SwitchToThread", ir.IntType(32))
    else:
        e.call("sched_yield", ir.IntType(32))
    return e.context.get_dummy_value()
