"""What a run tells about itself: metrics.jsonl, TensorBoard, the terminal, speed, time spent."""
