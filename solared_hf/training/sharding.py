"""Train with weights, gradients and optimizer state split over processes (FSDP), and save the whole model."""

from accelerate.state import AcceleratorState
from transformers import TrainerCallback

from solared_hf.errors import SolaredError


class SavedAsItsFamily(TrainerCallback):
    """Let FSDP split one of our models, and the Trainer save the whole model under its own name and with its own code.

    Without FSDP this callback changes nothing in the training or the saved model.

    Raises:
        SolaredError: If the run would save the model in pieces, one for each process.
    """

    def on_init_end(self, args, state, control, model, **kwargs):
        plugin = getattr(AcceleratorState(), "fsdp_plugin", None)
        # From pieces, the Trainer writes a model that cannot be loaded, and reading the best checkpoint never returns.
        if plugin is not None and plugin.state_dict_type.name != "FULL_STATE_DICT":
            raise SolaredError(
                f"FSDP with {plugin.state_dict_type.name} leaves a model in pieces. Launch with fsdp_state_dict_type: "
                "FULL_STATE_DICT, as in scripts/configs/accelerate/fsdp.yaml."
            )
        self.family = type(model)
        # accelerate (1.15) splits token embeddings separately. Our models have none, and transformers raises an error
        # when a model without token embeddings is asked for them.
        model.get_input_embeddings = lambda: None

    def on_train_begin(self, args, state, control, model, **kwargs):
        # FSDP2 changes the class of the model to a class that torch makes. A model is saved with the name and the
        # source file of its class, so the class gets the name of the family.
        if isinstance(model, self.family):
            type(model).__module__, type(model).__name__ = self.family.__module__, self.family.__name__
