"""The reference systems of the paper's Table 1, small: an LSTM on poses, two-stream networks, poses before actions."""
