"""The Trainer of `solared train`: losses that count what was observed, whatever the batches and processes."""

import torch
from transformers import Trainer, TrainerCallback

from solared_hf.errors import SolaredError
from solared_hf.training_checks import cannot_start


class _Beginning(TrainerCallback):
    """Knows whether everything is prepared and training has begun."""

    is_over = False

    def on_train_begin(self, args, state, control, **kwargs):
        self.is_over = True


class SolaredTrainer(Trainer):
    """`transformers.Trainer` whose losses are means over all observed target values.

    A plain Trainer takes the mean of each batch's mean. If targets have NaN, that mean depends on how windows are
    put together into batches. Here each observed value has the same weight:

    - in a training step, however many accumulation steps and processes it is split into;
    - in evaluation, whatever the batch size and the number of processes. Every window is evaluated exactly once.
    """

    def train(self, *args, **kwargs):
        """Train.

        Raises:
            SolaredError: an optimizer, a schedule, a loader or something else that the arguments ask for cannot be
                prepared.
        """
        beginning = _Beginning()
        self.add_callback(beginning)
        try:
            return super().train(*args, **kwargs)
        except Exception as error:
            if isinstance(error, SolaredError) or beginning.is_over:
                raise
            raise cannot_start(error) from error

    def get_eval_dataloader(self, eval_dataset=None):
        """Return a loader of all windows: `dataloader_drop_last` is about training."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = drop_last

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the loss of a batch; in evaluation, also add it to what `evaluation_loop` reports."""
        if model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs = self._without_repeated_windows(inputs)
        observed = _targets(inputs).isnan().logical_not().sum()
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        self._evaluated += torch.stack([loss.detach().float().mean() * observed, observed.float()])
        return (loss, outputs) if return_outputs else loss

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        """Evaluate, and report the loss over all observed values of all windows."""
        self._evaluated = torch.zeros(2, device=self.args.device)
        result = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        total, observed = self.accelerator.gather(self._evaluated[None]).sum(dim=0).tolist()
        if observed:
            result.metrics[f"{metric_key_prefix}_loss"] = total / observed
        return result

    def _get_num_items_in_batch(self, batch_samples, device):
        """Count the observed target values; transformers counts those `labels` that are not -100."""
        counted = [{"labels": torch.where(_targets(batch).isnan(), -100, 0)} for batch in batch_samples]
        return super()._get_num_items_in_batch(counted, device)

    def _without_repeated_windows(self, inputs):
        """Return the batch with NaN in the place of targets that another batch holds.

        The last batches of all processes are filled up with windows from the beginning, behind the others.
        """
        state, size = self.accelerator.gradient_state, len(inputs["future_values"])
        if not state.end_of_dataloader or state.remainder < 1:
            return inputs
        first_repeated = max(state.remainder - self.args.process_index * size, 0)
        without = {name: inputs[name].clone() for name in ("future_values", "future_trajectory") if name in inputs}
        for targets in without.values():
            targets[first_repeated:] = torch.nan
        return {**inputs, **without}


def _targets(inputs) -> torch.Tensor:
    """Return the target values that a loss is about, NaN where they were not observed."""
    return inputs["future_trajectory"] if "future_trajectory" in inputs else inputs["future_values"]
