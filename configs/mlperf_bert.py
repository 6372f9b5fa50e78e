"""MLPerf Training's BERT: BERT-Large from MLPerf's phase-1 checkpoint, on MLPerf's TFRecords.

Source:   mlcommons/training, language_model/tensorflow/bert (README.md, run_pretraining.py,
          optimization.py): 512 tokens, 76 predictions, masks as stored, LAMB with decay 0.01 that
          spares LayerNorm and biases, gradients clipped to a norm of 1, linear decay. Values for
          batches of 256: mlcommons/logging, rcp_checker/training_2.0.0/rcps_bert.json,
          bert_ref_256: rate 3.5e-4, 13,700 steps, no warm-up.
LAMB:     bert_lamb, without bias correction, as google-research/albert's. MLPerf's own file,
          lamb_optimizer_v1.py, was not read.
Data:     part-00000-of-00500 to part-00499-of-00500, made with MLPerf's script, and eval_10k;
          docs/how-to/tfrecords.md has every step.
Command:  bertjax pretrain --config=configs/mlperf_bert.py --workdir=W \
              --config.init_from=tf1:tf1_ckpt/model.ckpt-28252 \
              --config.tokenizer.path=tf1_ckpt/vocab.txt \
              --config.data.files='tfrecords/part-*' --config.data.heldout_files=eval_10k
Expected: mlm_accuracy .720 after some 2.6M examples (10,000 steps; MLPerf's reference runs took
          2.2M to 2.9M), and .34085 before the first step (source not found). Not yet run.
"""

from bertjax import config as config_lib


def get_config():
    config = config_lib.default()
    config.data.source = "bert_tfrecord"
    config.model.hidden_size = 1024
    config.model.num_hidden_layers = 24
    config.model.num_attention_heads = 16
    config.model.intermediate_size = 4096
    config.model.hidden_act = "gelu_new"
    config.model.dtype = "bfloat16"
    config.phases.phase1 = config_lib.phase(
        steps=13_700, sequence_length=512, batch_size=256, max_predictions_per_seq=76
    )
    config.optimizer.name = "bert_lamb"
    config.optimizer.learning_rate = 3.5e-4
    config.optimizer.warmup_steps = 0
    config.checkpoints.every_steps = 586
    config.evaluation.every_steps = 586  # 150,000 examples
    config.evaluation.num_examples = 10_000
    config.evaluation.batch_size = 256
    return config
