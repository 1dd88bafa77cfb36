"""What differs between processors: the product of bytes, and float16."""

from dataclasses import dataclass
from typing import Any

from llvmlite import binding, ir

_F32, _I8, _I16, _I32 = ir.FloatType(), ir.IntType(8), ir.IntType(16), ir.IntType(32)

# What LLVM's names of x86 levels mean for the operations here. Numba lists no features for a processor that
# the user names (NUMBA_CPU_NAME with empty NUMBA_CPU_FEATURES); other names get the code that runs everywhere.
_LEVELS = {
    "x86-64-v3": frozenset({"avx2", "f16c", "fma"}),
    "x86-64-v4": frozenset({"avx2", "f16c", "fma", "avx512f"}),
}


@dataclass(frozen=True)
class Target:
    """The processor that is compiled for.

    Attributes:
        architecture: first part of LLVM's triple, "x86_64" or "aarch64".
        features: LLVM's names of what it can do.
    """

    architecture: str
    features: frozenset[str]

    @classmethod
    def of(cls, context: Any) -> "Target":
        """The target that Numba compiles for: this machine, or the one of NUMBA_CPU_NAME and NUMBA_CPU_FEATURES."""
        codegen = context.codegen()
        named = codegen._get_host_cpu_name()  # noqa: SLF001
        listed = {item[1:] for item in codegen._get_host_cpu_features().split(",") if item[:1] == "+"}  # noqa: SLF001
        return cls(
            binding.get_default_triple().split("-", maxsplit=1)[0], frozenset(listed) | _LEVELS.get(named, set())
        )


def half_to_float_ir(e: Any, halves: ir.Value) -> ir.Value:
    """float16, given as <n x i16>, as <n x float>."""
    n = halves.type.count
    wide = ir.VectorType(_F32, n)
    if e.target.architecture != "x86_64" or e.target.features & {"f16c", "avx512f"}:
        return e.ir.fpext(e.ir.bitcast(halves, ir.VectorType(ir.HalfType(), n)), wide)
    # Without the instruction LLVM would call a function that Numba has not. The bits of exponent and
    # fraction, moved to float32's places, are the number times 2**-112, subnormal ones too.
    whole = ir.VectorType(_I32, n)
    bits = e.ir.zext(halves, whole)
    size = e.ir.shl(e.ir.and_(bits, ir.Constant(whole, [0x7FFF] * n)), ir.Constant(whole, [13] * n))
    scaled = e.ir.fmul(e.ir.bitcast(size, wide), ir.Constant(wide, [2.0**112] * n))
    sign = e.ir.shl(e.ir.and_(bits, ir.Constant(whole, [0x8000] * n)), ir.Constant(whole, [16] * n))
    return e.ir.bitcast(e.ir.or_(e.ir.bitcast(scaled, whole), sign), wide)


def dot_bytes_ir(e: Any, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """Add to acc (<16 x i32>), in each lane, the 4 products of bytes of a (unsigned) and b (signed), <64 x i8>."""
    if "avx512vnni" in e.target.features:
        # LLVM 22 changed the type of the bytes from <16 x i32> to <64 x i8>.
        kind = b.type if binding.llvm_version_info[0] >= 22 else acc.type
        return e.call("llvm.x86.avx512.vpdpbusd.512", acc.type, acc, e.ir.bitcast(a, kind), e.ir.bitcast(b, kind))
    if "avx2" in e.target.features:
        return e.ir.add(acc, _dot_by_words(e, a, b, "llvm.x86.avx2.pmadd.wd", 16))
    if e.target.architecture == "x86_64":
        return e.ir.add(acc, _dot_by_words(e, a, b, "llvm.x86.sse2.pmadd.wd", 8))
    if e.target.features & {"i8mm", "dotprod"}:
        return _dot_by_neon(e, acc, a, b)
    return _dot_by_lanes(e, acc, a, b)


def _dot_by_words(e: Any, a: ir.Value, b: ir.Value, name: str, lanes: int) -> ir.Value:
    """By x86's product of 16-bit words, which adds neighbours: once for the even bytes, once for the odd.

    The older product of bytes (pmaddubsw) saturates at 255 * 127 * 2 and cannot be used.
    """
    words = ir.VectorType(_I16, 32)
    eight = ir.Constant(words, [8] * 32)
    a, b = e.ir.bitcast(a, words), e.ir.bitcast(b, words)
    evens = e.ir.and_(a, ir.Constant(words, [255] * 32)), e.ir.ashr(e.ir.shl(b, eight), eight)
    odds = e.ir.lshr(a, eight), e.ir.ashr(b, eight)
    parts = []
    for first in range(0, 32, lanes):
        of_register = list(range(first, first + lanes))
        even, odd = (
            e.call(name, ir.VectorType(_I32, lanes // 2), e.shuffle(x, x, of_register), e.shuffle(y, y, of_register))
            for x, y in (evens, odds)
        )
        parts.append(e.ir.add(even, odd))
    return _joined(e, parts)


def _dot_by_neon(e: Any, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """By ARM's products of bytes, on four registers."""
    register, sums = ir.VectorType(_I8, 16), ir.VectorType(_I32, 4)
    flipped = e.ir.xor(a, ir.Constant(a.type, [0x80] * 64))
    parts = []
    for first in range(0, 64, 16):
        lanes = list(range(first, first + 16))
        part = e.shuffle(acc, acc, [lane // 4 for lane in lanes[::4]])
        y = e.shuffle(b, b, lanes)
        if "i8mm" in e.target.features:
            part = e.call("llvm.aarch64.neon.usdot.v4i32.v16i8", sums, part, e.shuffle(a, a, lanes), y)
        else:
            # Signed times signed only: a is (a - 128) + 64 + 64.
            sixty_four = ir.Constant(register, [64] * 16)
            for x in (e.shuffle(flipped, flipped, lanes), sixty_four, sixty_four):
                part = e.call("llvm.aarch64.neon.sdot.v4i32.v16i8", sums, part, x, y)
        parts.append(part)
    return _joined(e, parts)


def _dot_by_lanes(e: Any, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """By 32-bit products of every fourth byte: for any machine."""
    for byte in range(4):
        lanes = list(range(byte, 64, 4))
        x, y = e.ir.zext(e.shuffle(a, a, lanes), acc.type), e.ir.sext(e.shuffle(b, b, lanes), acc.type)
        acc = e.ir.add(acc, e.ir.mul(x, y))
    return acc


def _joined(e: Any, parts: list[ir.Value]) -> ir.Value:
    """One vector of several, whose number is a power of two."""
    while len(parts) > 1:
        parts = [
            e.shuffle(low, high, list(range(2 * low.type.count)))
            for low, high in zip(parts[::2], parts[1::2], strict=True)
        ]
    return parts[0]
