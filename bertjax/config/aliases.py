"""The names that google-research/bert, transformers and fairseq give to the config's fields."""

import difflib
import re

# Field -> its names elsewhere.
_OTHER_NAMES = {
    "seed": "random_seed data_seed rng_seed",
    "init_from": "init_checkpoint model_name_or_path model_name pretrained "
    "restore_file finetune_from_model",
    "model.vocab_size": "n_vocab vocab num_embeddings",
    "model.hidden_size": "d_model n_embd dim embed_dim embedding_size model_dim "
    "encoder_embed_dim emb_dim",
    "model.num_hidden_layers": "n_layers num_layers n_layer layers depth encoder_layers",
    "model.num_attention_heads": "n_heads num_heads n_head heads attention_heads "
    "encoder_attention_heads",
    "model.intermediate_size": "ffn ffn_dim ffn_size ffn_hidden_size d_ff d_inner mlp_dim "
    "hidden_dim feed_forward_size encoder_ffn_embed_dim",
    "model.max_position_embeddings": "n_positions n_ctx max_positions max_position",
    "model.type_vocab_size": "num_token_types token_types num_segments",
    "model.hidden_act": "activation activation_fn activation_function act hidden_activation",
    "model.hidden_dropout_prob": "dropout hidden_dropout dropout_rate dropout_prob resid_pdrop",
    "model.attention_probs_dropout_prob": "attention_dropout attn_dropout attn_pdrop "
    "attention_dropout_prob",
    "model.layer_norm_eps": "layer_norm_epsilon ln_eps layernorm_eps norm_eps",
    "model.initializer_range": "init_std init_range initializer_std",
    "model.num_labels": "num_classes n_classes",
    "model.dtype": "precision mixed_precision compute_dtype bf16 fp16 half_precision torch_dtype "
    "amp use_bf16",
    "model.attention": "attn_implementation flash_attention use_flash_attention attention_kernel",
    "model.remat": "gradient_checkpointing activation_checkpointing checkpoint_activations "
    "recompute use_remat",
    "tokenizer.path": "vocab_file tokenizer_name tokenizer_file tokenizer_path vocab_path "
    "tokenizer_name_or_path bpe_codes spm_model",
    "tokenizer.lowercase": "do_lower_case lower_case lowercase uncased do_lowercase",
    "tokenizer.kind": "tokenizer_type tokenizer_class bpe",
    "data.files": "input_file input_files train_file train_files data_files data_path data_dir "
    "corpus train_data dataset_path",
    "data.tfds_name": "dataset dataset_name tfds_dataset",
    "data.heldout_files": "eval_file eval_input_file validation_file validation_files eval_files",
    "data.heldout_fraction": "validation_split validation_split_percentage eval_fraction "
    "valid_fraction test_size val_fraction",
    "data.num_workers": "dataloader_num_workers preprocessing_num_workers workers num_proc",
    "examples.builder": "sample_break_mode input_format",
    "examples.max_per_row": "packing pack pack_sequences",
    "masking.masked_lm_prob": "mlm_probability mlm_prob mask_prob masking_prob masking_rate "
    "mlm_rate",
    "masking.random_token_prob": "random_replace_prob",
    "masking.smoothing": "mlm_smoothing",
    "masking.unit": "whole_word_mask do_whole_word_mask mask_whole_words wwm span_masking",
    "masking.static_patterns": "dupe_factor static_masking dynamic_masking",
    "phases.phase1.steps": "num_train_steps max_steps num_steps total_steps train_steps "
    "max_update max_updates total_num_update total_num_updates num_train_epochs epochs "
    "max_epoch num_epochs training_steps max_iters",
    "phases.phase1.batch_size": "bsz bs batch train_batch_size global_batch_size "
    "per_device_train_batch_size per_gpu_train_batch_size max_sentences batch_sentences",
    "phases.phase1.sequence_length": "max_seq_length max_seq_len seq_len seq_length "
    "tokens_per_sample max_length block_size sequence_len max_sequence_length",
    "phases.phase1.max_predictions_per_seq": "max_predictions max_preds max_predictions_per_row",
    "phases.phase1.micro_batch_size": "gradient_accumulation_steps grad_accum accum_steps "
    "gradient_accumulation grad_accumulation_steps accumulate_grad_batches update_freq "
    "micro_batch microbatch_size",
    "optimizer.name": "optim optimizer_name optimizer_type optimiser",
    "optimizer.learning_rate": "lr peak_lr max_lr base_lr peak_learning_rate learningrate "
    "initial_lr",
    "optimizer.warmup_steps": "warmup num_warmup_steps warmup_updates lr_warmup_steps "
    "warmup_ratio warmup_proportion warmup_fraction warmup_iters",
    "optimizer.schedule": "lr_scheduler lr_scheduler_type scheduler lr_schedule lr_decay",
    "optimizer.decay_power": "lr_decay_power poly_power power",
    "optimizer.b1": "beta1 adam_beta1 beta_1 adam_b1 betas adam_betas",
    "optimizer.b2": "beta2 adam_beta2 beta_2 adam_b2",
    "optimizer.eps": "epsilon adam_epsilon adam_eps adam_epsilon_value",
    "optimizer.weight_decay": "wd weight_decay_rate l2 decay",
    "optimizer.clip_norm": "max_grad_norm grad_clip gradient_clip gradient_clipping clip "
    "grad_clip_norm max_norm clip_grad_norm gradient_clip_val",
    "mesh.data": "data_parallel dp data_parallelism num_gpus num_devices num_tpu_cores world_size",
    "mesh.fsdp": "fsdp_size fsdp_parallelism",
    "mesh.fsdp_gather": "reshard_after_forward fsdp_reshard_after_forward sharding_strategy",
    "mesh.shard_optimizer_over_data": "zero zero1 zero_1 zero_stage use_distributed_optimizer "
    "distributed_optimizer shard_optimizer optimizer_sharding",
    "mesh.tensor": "tp tensor_parallel tensor_model_parallel_size model_parallel_size",
    "checkpoints.every_steps": "save_steps save_interval save_checkpoints_steps save_every "
    "checkpoint_every save_interval_updates checkpoint_interval",
    "checkpoints.keep": "save_total_limit keep_checkpoint_max max_to_keep keep_last_n "
    "keep_last_checkpoints keep_interval_updates",
    "evaluation.every_steps": "eval_steps eval_interval eval_every validate_interval "
    "validate_interval_updates",
    "evaluation.batch_size": "eval_batch_size per_device_eval_batch_size batch_size_valid",
    "evaluation.num_examples": "max_eval_steps max_eval_samples eval_examples",
    "logging.every_steps": "logging_steps log_interval log_every log_steps log_every_steps",
    "logging.tensorboard": "report_to tensorboard_logdir",
    "objective.mlm": "mlm_weight",
    "objective.nsp": "nsp_weight use_nsp next_sentence",
    "optimizer.layer_decay": "layerwise_learning_rate_decay layerwise_lr_decay llrd lr_layer_decay "
    "layer_wise_decay layerwise_decay",
    "task.name": "task_name glue_task",
    "task.text_column": "sentence1_key text_column_name context_column",
    "task.pair_column": "sentence2_key text_pair_column question_column",
    "task.label_column": "label_column_name label_key",
    "task.stride": "doc_stride document_stride",
    "task.question_length": "max_query_length max_question_length",
    "task.answer_length": "max_answer_length",
    "task.n_best": "n_best_size nbest n_best_predictions",
    "task.null_answers": "version_2_with_negative squad_v2 version_2",
    "task.target_scale": "regression_scale label_scale",
    "finetune.patience": "early_stopping_patience early_stop_patience",
    "finetune.select": "load_best_model_at_end keep_best",
    "finetune.metric": "metric_for_best_model best_checkpoint_metric early_stopping_metric",
    "finetune.reinit_layers": "reinit_n_layers reinitialize_layers reinit_top_layers",
    "finetune.group_lengths": "group_by_length",
    "finetune.buckets": "pad_to_max_length dynamic_padding",
    "seeds": "num_seeds n_seeds num_runs",
}
_FIELD = {name: field for field, names in _OTHER_NAMES.items() for name in names.split()}

# For names that several groups have, the field that is meant if the group gives no hint.
_HOME = {
    "batch_size": "phases.phase1.batch_size",
    "learning_rate": "optimizer.learning_rate",
    "warmup_steps": "optimizer.warmup_steps",
    "vocab_size": "model.vocab_size",
    "steps": "phases.phase1.steps",
}

_FLAG = {
    name: flag
    for flag, names in {
        "--workdir": "output_dir out_dir save_dir logging_dir model_dir work_dir checkpoint_dir",
        "--config": "config_file bert_config_file conf cfg config_name",
    }.items()
    for name in names.split()
}

# How the field differs from the other name, in units or values.
_HOW = {
    "phases.phase1.micro_batch_size": "the rows computed at once: batch_size divided by the steps "
    "of accumulation",
    "model.dtype": "float32 or bfloat16",
    "masking.unit": "token, whole_word or span",
    "finetune.select": "last or best",
    "finetune.buckets": "False pads to sequence_length",
    "task.null_answers": "squad2 sets it",
}
_HOW_OF_NAME = {
    "betas": "and optimizer.b2",
    "adam_betas": "and optimizer.b2",
    "num_train_epochs": "in steps; fine-tuning: config.finetune.epochs",
    "epochs": "in steps; fine-tuning: config.finetune.epochs",
    "max_epoch": "in steps; fine-tuning: config.finetune.epochs",
    "num_epochs": "in steps; fine-tuning: config.finetune.epochs",
    "warmup_ratio": "in steps; fine-tuning: config.finetune.warmup_fraction",
    "warmup_proportion": "in steps; fine-tuning: config.finetune.warmup_fraction",
    "warmup_fraction": "in steps; fine-tuning: config.finetune.warmup_fraction",
    "per_device_train_batch_size": "of all devices together",
    "per_gpu_train_batch_size": "of all devices together",
    "max_sentences": "of all devices together",
    "per_device_eval_batch_size": "of all devices together",
    "validation_split_percentage": "a share: 0.05 for 5%",
}


def usual(path: str) -> str:
    """`path` with NAME in place of the name of a phase or component, which users choose."""
    return re.sub(r"^config\.(phases|mixture)\.\w+\.", r"config.\1.NAME.", path)


def meant(path: str, known: list[str]) -> str:
    """The hint for an unknown field: the existing field that `path` probably means.

    Args:
      path: the unknown field, for example `config.optimizer.lr`.
      known: the paths of all fields, with NAME as in `usual`.
    """
    hint = _meant(usual(path), known)
    given = re.match(r"config\.(?:phases|mixture)\.(\w+)\.", path)
    return hint.replace(".NAME.", f".{given[1]}." if given else ".phase1.")


def _meant(path: str, known: list[str]) -> str:
    group, _, name = path.rpartition(".")
    plain = name.lower().replace("-", "_")
    if plain in _FLAG:
        return f"did you mean {_FLAG[plain]}?"
    if plain in _FIELD:
        field = _FIELD[plain]
        how = _HOW_OF_NAME.get(plain, _HOW.get(field))
        # Phases share some field names with the run, so prefer the field of the given group.
        here = f"{group}.{field.rpartition('.')[2]}"
        found = here if here in known else f"config.{field}"
        return f"did you mean {found}{f' ({how})' if how else ''}?"
    siblings = [field.rpartition(".")[2] for field in known if field.rpartition(".")[0] == group]
    for leaf in difflib.get_close_matches(plain, siblings, n=1):
        return f"did you mean {group}.{leaf}?"
    if plain in _HOME:
        return f"did you mean config.{_HOME[plain]}?"
    everywhere = sorted({field.rpartition(".")[2] for field in known})
    for leaf in difflib.get_close_matches(plain, everywhere, n=1, cutoff=0.7):
        if leaf in _HOME:
            return f"did you mean config.{_HOME[leaf]}?"
        fields = [field for field in known if field.rpartition(".")[2] == leaf]
        return f"did you mean {difflib.get_close_matches(path, fields, n=1, cutoff=0.0)[0]}?"
    return "bertjax pretrain --help lists the fields"
