"""The Trainer of `solared train`: losses over the observed values, for all batch sizes and numbers of processes."""

from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback

from solared_hf.errors import SolaredError
from solared_hf.training.checks import cannot_start


class _TrainingStart(TrainerCallback):
    """Records whether the preparations are finished and training has begun."""

    has_begun = False

    def __init__(self, trainer: "SolaredTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.apply_arguments()
        self.has_begun = True


class SolaredTrainer(Trainer):
    """`transformers.Trainer` whose losses are means over all observed target values.

    A plain Trainer takes the mean of the means of the batches. If targets have NaN, that mean depends on which windows
    share a batch. Here each observed value has the same weight:

    - in a training step, for any number of accumulation steps and processes;
    - in evaluation, for any batch size and number of processes. Each window is evaluated exactly once.
    """

    def train(self, *args, **kwargs):
        """Train.

        Raises:
            SolaredError: If the optimizer, the schedule, a loader or another preparation fails.
        """
        start = _TrainingStart(self)
        self.add_callback(start)
        try:
            return super().train(*args, **kwargs)
        except Exception as error:
            if isinstance(error, SolaredError) or start.has_begun:
                raise
            raise cannot_start(error) from error

    def create_optimizer(self, *args, **kwargs):
        """Create the optimizer, and keep the options of each group of weights."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if is_new:
            groups = optimizer.param_groups
            self._options = [{name: value for name, value in group.items() if name != "params"} for group in groups]
        return optimizer

    def apply_arguments(self) -> None:
        """Use the arguments of this run, where the checkpoint has replaced them.

        The states of the optimizer and of the schedule hold the learning rate, the weight decay and other options of
        the checkpoint, and the rate of the last step, which is 0 at the end of most schedules. If the rate of a
        schedule follows from the step, the rate of this step is set. Other schedules keep their rate as a state.
        """
        assert self.optimizer is not None
        self.state.compute_steps(self.args, self.state.max_steps)
        # The annotation of transformers is LambdaLR, but the schedule may be of another class.
        schedule: Any = self.lr_scheduler
        follows_step = isinstance(schedule, LambdaLR)
        for group, options in zip(self.optimizer.param_groups, self._options, strict=True):
            group.update({name: value for name, value in options.items() if follows_step or name != "lr"})
        if follows_step:
            schedule.base_lrs = [options["lr"] for options in self._options]
            factors = [factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
            rates = [rate * factor for rate, factor in zip(schedule.base_lrs, factors, strict=True)]
            schedule._last_lr = rates
            for group, initial_rate, rate in zip(self.optimizer.param_groups, schedule.base_lrs, rates, strict=True):
                group |= {"initial_lr": initial_rate, "lr": rate}

    def get_eval_dataloader(self, eval_dataset=None):
        """Return a loader of all windows. `dataloader_drop_last` applies only to training."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = drop_last

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the loss of a batch. In evaluation, also add it to the loss that `evaluation_loop` reports."""
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
        """Return the number of observed target values. transformers counts `labels` that are not -100."""
        counted = [{"labels": torch.where(_targets(batch).isnan(), -100, 0)} for batch in batch_samples]
        return super()._get_num_items_in_batch(counted, device)

    def _without_repeated_windows(self, inputs):
        """Return the batch with NaN for targets that another batch holds too.

        accelerate fills the last batches with windows from the beginning, so that all processes have full batches.
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
    """Return the target values of the loss, with NaN where they were not observed."""
    return inputs["future_trajectory"] if "future_trajectory" in inputs else inputs["future_values"]
