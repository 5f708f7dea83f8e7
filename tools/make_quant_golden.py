#!/usr/bin/env python3
"""Writes tests/golden/quantized.gguf: random blocks of every quantised type beside gguf-py's decoding of them.

Needs the PyPI packages gguf and numpy (made with gguf 0.19.0). Tensor NAME holds the blocks, NAME.f32 the values.
"""
import pathlib

import gguf
import numpy as np
from gguf.quants import dequantize

ROWS, COLUMNS = 3, 512
rng = np.random.default_rng(7)
out = pathlib.Path(__file__).parent.parent / "tests/golden/quantized.gguf"
writer = gguf.GGUFWriter(str(out), "golden")
scale_bytes = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2],
               "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
for name, places in scale_bytes.items():
    kind = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (ROWS * COLUMNS // block, size), dtype=np.uint8)
    for place in places:  # random bits could be an infinity: the scales are drawn as numbers
        scales = rng.normal(0, 0.02, len(blocks)).astype(np.float16)
        blocks[:, place:place + 2] = scales.view(np.uint8).reshape(-1, 2)
    rows = blocks.reshape(ROWS, -1)
    writer.add_tensor(name, rows, raw_dtype=kind)
    writer.add_tensor(name + ".f32", dequantize(rows, kind).reshape(ROWS, COLUMNS).astype(np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
