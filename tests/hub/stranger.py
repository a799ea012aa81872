"""The beginning of code that runs as on a machine without our packages."""

WITHOUT_OUR_PACKAGES = """
import sys

class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("solared_hf", "dataset_builder"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Forbid())
"""
