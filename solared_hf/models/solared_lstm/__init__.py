"""An LSTM that reads the past of each tile by itself, and one that writes its future."""
