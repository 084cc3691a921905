"""What evaluating a model is made of: scores, statistics, baselines, the gate and pictures."""
