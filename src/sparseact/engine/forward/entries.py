"""What Python calls of the compiled code. This imports none of it, see `simd.entry`."""

from sparseact.engine.simd.entry import Entry

run = Entry("forward.step.run")
run_verifying = Entry("forward.verify.run_verifying")
read_rows = Entry("quant.dequant.read_rows")
unpack_transposed = Entry("quant.dequant_transposed.unpack_transposed")
tile_inputs = Entry("kernels.gemm.tile_inputs")
dot_tiles = Entry("kernels.gemm.dot_tiles")
select_rows = Entry("kernels.select.select_rows")
