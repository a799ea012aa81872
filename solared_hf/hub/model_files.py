"""Names that transformers gives to the files of a trained model's folder.

They are written down here because importing them from transformers takes a second.
"""

PROCESSOR_NAME = "preprocessor_config.json"
WEIGHTS_NAME = "model.safetensors"
# Names the shards of weights that are too large for one file.
WEIGHTS_INDEX_NAME = f"{WEIGHTS_NAME}.index.json"
