"""RoBERTa with 4 layers, hidden 256: its paper's ablations, small enough for two CPU cores.

Paper:    Liu et al. 2019, sections 4.1 and 4.2, tables 1 and 2 (there: Base, 1M steps of 256).
Variants: :builder=segment_pair_nsp | sentence_pair_nsp | full_sentences | doc_sentences
          :nsp=False     no next-sentence loss on pairs (the other two formats never have one)
          :static=10     masks (and examples) of 10 fixed patterns, as in BERT's duplicated data;
                         0 is dynamic. They differ only on text read more than `static` times.
          :steps=2000    steps in all, a tenth of them warm-up
          :vocab=8192    pieces of the byte-level BPE; few pieces let a short run learn more than
                         their frequencies
          e.g. configs/roberta_small.py:builder=segment_pair_nsp,nsp=False,steps=5000
Recipe:   RoBERTa's optimizer (betas .9/.98, no clipping) and fairseq's masks, at the rate of a
          small model. Every step reads about 1,000 tokens in every format. Rows are packed; where
          whole sentences leave an eighth of the rows empty, a batch has 9 rows instead of 8 (the
          paper, too, enlarges the batch of a short format). There are no token types, so a model of
          one format reads the others as well. There is no dropout: most text is read once.
Data:     any corpus; the byte-level BPE is trained on it.
Command:  bertjax pretrain --config=configs/roberta_small.py:builder=doc_sentences --workdir=W \\
              --config.data.files=corpus.jsonl.gz
          The whole grid: python -m benchmarks.ablation --data=corpus.jsonl.gz --workdir=W
Expected: the table in benchmarks/RESULTS.md.
"""

from bertjax import config as config_lib


def get_config(arg=None):
    arg = config_lib.parse_arg(
        arg, builder="full_sentences", nsp=True, static=0, steps=2000, vocab=8192
    )
    has_nsp = arg.nsp and arg.builder.endswith("_nsp")
    config = config_lib.default()
    config.tokenizer.kind = "byte_bpe"
    config.tokenizer.vocab_size = arg.vocab
    config.data.heldout_fraction = 0.03
    config.examples.builder = arg.builder
    config.examples.max_per_row = 16
    config.masking.static_patterns = arg.static
    config.masking.rounding = "probabilistic"
    config.masking.random_special = False

    config.model.vocab_size = 0  # the tokenizer's
    config.model.hidden_size = 256
    config.model.num_hidden_layers = 4
    config.model.num_attention_heads = 4
    config.model.intermediate_size = 1024
    config.model.max_position_embeddings = 130
    config.model.position_offset = 2
    config.model.type_vocab_size = 0
    config.model.layer_norm_eps = 1e-5
    config.model.hidden_dropout_prob = 0.0
    config.model.attention_probs_dropout_prob = 0.0
    config.model.scan_unroll = 0
    config.model.head = "pretraining" if has_nsp else "masked_lm"
    config.objective.nsp = float(has_nsp)

    config.phases.phase1 = config_lib.phase(
        steps=arg.steps,
        sequence_length=128,
        batch_size=8 if arg.builder.endswith("_nsp") else 9,
        max_predictions_per_seq=22,
    )
    config.optimizer.name = "adamw"
    config.optimizer.schedule = "warmup_then_decay"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = arg.steps // 10
    config.optimizer.b2 = 0.98
    config.optimizer.clip_norm = 0.0
    config.evaluation.every_steps = max(arg.steps // 5, 1)
    config.evaluation.num_examples = 256
    config.evaluation.batch_size = 32
    config.checkpoints.every_steps = max(arg.steps // 2, 1)
    return config
