"""File names in the folder of a trained model, as transformers writes them.

The names are repeated here because importing them from transformers takes a second.
"""

PROCESSOR_NAME = "preprocessor_config.json"
WEIGHTS_NAME = "model.safetensors"
# The list of shards if the weights are too large for one file.
WEIGHTS_INDEX_NAME = f"{WEIGHTS_NAME}.index.json"
