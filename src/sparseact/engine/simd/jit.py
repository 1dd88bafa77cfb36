"""Compiling for this machine: the decorator of every compiled function, and what a call from Python is made of.

Numba optimises each function with all that it calls and makes machine code of it before it does the same for the
caller. Here only what Python calls is: the functions below it are lowered and linked, once, and then optimised
together. That takes a quarter of the time.
"""

from collections.abc import Callable
from itertools import count
from typing import Any, TypeVar, cast

from llvmlite import ir
from numba import njit, typeof, types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.compiler_lock import global_compiler_lock

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums are added as they are written: the same numbers come out wherever LLVM inlines a function, on every processor
# (`reduce` and `vectors` add 16 at a time). Arrays are not counted: a view would cost an atomic addition, for which
# threads fight. So nothing may be allocated there.
_OPTIONS: dict[str, Any] = {"nogil": True, "_nrt": False, "error_model": "numpy"}
_NUMBERS = count()


class _Library(JITCodeLibrary):
    """Code that Numba itself does not run."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


class _PartLibrary(_Library):
    """Code that is only linked into other code, and optimised there."""

    def _optimize_final_module(self) -> None:
        pass


class _PartCompiler(Compiler):
    """Numba's compiler, without what comes after the linking."""

    def __init__(self, typing_context: Any, target_context: Any, library: Any, *rest: Any) -> None:
        library = library or _PartLibrary(target_context.codegen(), f"part {next(_NUMBERS)}")
        super().__init__(typing_context, target_context, library, *rest)
        # The context is a copy for this function. What Python would call has to be built in, and its own.
        self.state.targetctx.get_executable = lambda *_: [].append


def compiled(function: Function) -> Function:
    """A function of compiled code. It is compiled where one that calls it is; Python calls it by an `Entry`."""
    options = _OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "pipeline_class": _PartCompiler}
    made = njit(**options)(function)
    # Numba would compile it once more for each argument that is a constant.
    for_types = made.get_call_template
    made.get_call_template = lambda args, names: for_types(tuple(map(types.unliteral, args)), names)
    return cast(Function, made)


def object_code(function: Any, arguments: tuple[Any, ...], name: str) -> bytes:
    """Machine code, as an object file, of a compiled function for arguments of these types.

    Its symbol `name` is a function of the address of an array of 64-bit words: the result's, then the arguments' as
    `entry.words_of` has them. It gives 0, or a number below 0 if the function raised.
    """
    kinds = tuple(typeof(argument) for argument in arguments)
    with global_compiler_lock:
        function.compile(kinds)
        found = function.overloads[kinds]
        library = _Library(found.library.codegen, name)
        library.add_linking_library(found.library)
        library.add_ir_module(_caller(library.create_ir_module(name), found, name))
        library.finalize()
    return cast(bytes, library.codegen._tm.emit_object(library._final_module))  # noqa: SLF001


def _caller(module: ir.Module, found: Any, name: str) -> ir.Module:
    """The function that takes the words apart."""
    word, status = ir.IntType(64), ir.IntType(32)
    called = ir.Function(
        module,
        found.target_context.call_conv.get_function_type(found.fndesc.restype, found.fndesc.argtypes),
        found.fndesc.llvm_func_name,
    )
    function = ir.Function(module, ir.FunctionType(status, [word.as_pointer()]), name)
    builder = ir.IRBuilder(function.append_basic_block())
    (words,) = function.args
    result, exception, *leaves = called.args
    places = [builder.alloca(argument.type.pointee) for argument in (result, exception)]
    values = []
    for i, leaf in enumerate(leaves, start=1):
        place = builder.gep(words, [word(i)])
        values.append(builder.load(builder.bitcast(place, leaf.type.as_pointer())))
    code = builder.call(called, [*places, *values])
    if isinstance(found.fndesc.restype, types.Integer | types.Boolean):
        value = builder.load(places[0])
        widen = builder.sext if isinstance(found.fndesc.restype, types.Integer) else builder.zext
        builder.store(value if value.type == word else widen(value, word), words)
    # Numba's number for "returned None" is no error.
    builder.ret(builder.select(builder.icmp_signed("==", code, status(-2)), status(0), code))
    return module
