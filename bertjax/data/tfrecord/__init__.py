"""Examples that are masked already: the TFRecords of google-research/bert, read without TensorFlow.

framing    a file -> its records, every checksum compared
example    a record -> the arrays of one example
scan       a file -> where its records lie
index      files -> W/store: where every record lies
batches    (W/store, config, step) -> host batch
"""
