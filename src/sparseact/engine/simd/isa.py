"""What differs between processors: the product of bytes, and float16."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
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


def code_offset_of(target: Target) -> int:
    """What is left in the sum of `dot_codes_ir` for each unit of b: codes of 8 bits are stored with 128 added."""
    return 0 if _multiplies_signed(target) else 128


def dot_codes_ir(e: Any, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """Add to acc (<16 x i32>), in each lane, the 4 products of codes of a and bytes of b (signed, not -128), <64 x i8>.

    Codes are bytes with 128 added: 128, or 0, is left to take off for each unit of b, see `code_offset_of`.
    """
    if not _multiplies_signed(e.target):
        return _dot_unsigned(e, acc, a, b)
    # AVX2 adds two products in 16 bits, which sizes up to 128 times 127 do not overflow, as 255 would.
    codes = e.ir.xor(a, ir.Constant(a.type, [0x80] * 64))
    parts = []
    for code, other in zip(e.halves(codes, 32), e.halves(b, 32), strict=True):
        size = e.call("llvm.abs.v32i8", code.type, code, ir.IntType(1)(0))
        signed = e.call("llvm.x86.avx2.psign.b", code.type, other, code)
        parts.append(_add_pairs(e, _pairs(e, size, signed)))
    return e.ir.add(acc, _joined(e, parts))


def dot_nibbles_ir(e: Any, acc: ir.Value, pairs: Sequence[tuple[ir.Value, ir.Value]]) -> ir.Value:
    """As `dot_codes_ir` for at most 8 pairs of vectors a, from 0 to 15, and b; nothing is left to take off."""
    if _multiplies_signed(e.target):
        # 8 times two products of sizes up to 15 times 127 do not overflow 16 bits.
        low, high = zip(*(zip(e.halves(a, 32), e.halves(b, 32), strict=True) for a, b in pairs), strict=True)
        words = [reduce(e.ir.add, [_pairs(e, a, b) for a, b in half]) for half in (low, high)]
        return e.ir.add(acc, _joined(e, [_add_pairs(e, each) for each in words]))
    sums = [acc, ir.Constant(acc.type, None)]
    for k, (a, b) in enumerate(pairs):  # in turn: one need not wait for the other
        sums[k % 2] = _dot_unsigned(e, sums[k % 2], a, b)
    return e.ir.add(*sums)


def _multiplies_signed(target: Target) -> bool:
    return "avx2" in target.features and not target.features & {"avx512vnni", "avxvnni"}


def _pairs(e: Any, a: ir.Value, b: ir.Value) -> ir.Value:
    """By AVX2, 16 sums of 2 products of bytes of a (unsigned) and b (signed)."""
    return e.call("llvm.x86.avx2.pmadd.ub.sw", ir.VectorType(_I16, 16), a, b)


def _add_pairs(e: Any, words: ir.Value) -> ir.Value:
    """By AVX2, 8 sums of 2 of 16 words."""
    return e.call("llvm.x86.avx2.pmadd.wd", ir.VectorType(_I32, 8), words, ir.Constant(words.type, [1] * 16))


def _dot_unsigned(e: Any, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """Add to acc (<16 x i32>), in each lane, the 4 products of bytes of a (unsigned) and b (signed), <64 x i8>."""
    if "avx512vnni" in e.target.features:
        return _dot_by_vnni(e, acc, a, b, 512)
    if "avxvnni" in e.target.features:
        halves = zip(e.halves(acc, 8), e.halves(a, 32), e.halves(b, 32), strict=True)
        return _joined(e, [_dot_by_vnni(e, *half, 256) for half in halves])
    if e.target.architecture == "x86_64":
        return e.ir.add(acc, _dot_by_words(e, a, b))
    if e.target.features & {"i8mm", "dotprod"}:
        return _dot_by_neon(e, acc, a, b)
    return _dot_by_lanes(e, acc, a, b)


def _dot_by_vnni(e: Any, acc: ir.Value, a: ir.Value, b: ir.Value, bits: int) -> ir.Value:
    # LLVM 22 changed the type of the bytes from <n x i32> to <4n x i8>.
    kind = b.type if binding.llvm_version_info[0] >= 22 else acc.type
    name = f"llvm.x86.avx512.vpdpbusd.{bits}"
    return e.call(name, acc.type, acc, e.ir.bitcast(a, kind), e.ir.bitcast(b, kind))


def _dot_by_words(e: Any, a: ir.Value, b: ir.Value) -> ir.Value:
    """By x86's oldest product of words, which adds neighbours: once for the even bytes, once for the odd."""
    words, lanes = ir.VectorType(_I16, 32), 8
    eight = ir.Constant(words, [8] * 32)
    a, b = e.ir.bitcast(a, words), e.ir.bitcast(b, words)
    evens = e.ir.and_(a, ir.Constant(words, [255] * 32)), e.ir.ashr(e.ir.shl(b, eight), eight)
    odds = e.ir.lshr(a, eight), e.ir.ashr(b, eight)
    parts = []
    for first in range(0, 32, lanes):
        of_register = list(range(first, first + lanes))
        even, odd = (
            e.call(
                "llvm.x86.sse2.pmadd.wd",
                ir.VectorType(_I32, lanes // 2),
                e.shuffle(x, x, of_register),
                e.shuffle(y, y, of_register),
            )
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
