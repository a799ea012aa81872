"""A video ResNet that reads the tiles of a patch as the pixels of a clip."""
