"""Training with weights, gradients and optimizer state split over processes (FSDP), and saving the model whole."""

from accelerate.state import AcceleratorState
from transformers import TrainerCallback

from solared_hf.errors import SolaredError


class SavedAsItsFamily(TrainerCallback):
    """Lets FSDP split a model of ours, and the Trainer save it whole, under its own name and with its own code.

    Without FSDP it changes nothing that is trained or saved.

    Raises:
        SolaredError: the run is to leave only pieces of the model, one a process.
    """

    def on_init_end(self, args, state, control, model, **kwargs):
        plugin = getattr(AcceleratorState(), "fsdp_plugin", None)
        # In pieces, the Trainer writes no model that can be loaded, and never comes back from reading the best one.
        if plugin is not None and plugin.state_dict_type.name != "FULL_STATE_DICT":
            raise SolaredError(
                f"FSDP with {plugin.state_dict_type.name} leaves a model in pieces; launch with fsdp_state_dict_type: "
                "FULL_STATE_DICT, as scripts/configs/accelerate/fsdp.yaml has it."
            )
        self.family = type(model)
        # accelerate (1.15) asks for token embeddings, which it splits apart. Ours read numbers, and transformers'
        # answer for a model without a table of tokens is an error.
        model.get_input_embeddings = lambda: None

    def on_train_begin(self, args, state, control, model, **kwargs):
        # FSDP2 turns the model into one of a class that torch makes; a model is saved with the name and the source
        # file of its class, which would be torch's.
        if isinstance(model, self.family):
            type(model).__module__, type(model).__name__ = self.family.__module__, self.family.__name__
