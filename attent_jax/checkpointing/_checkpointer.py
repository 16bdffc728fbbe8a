"""Save a run's whole state, and restore it only if it is intact and the same run's."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from attent_jax._checks import check_count, check_number
from attent_jax.checkpointing._files import (
    CheckpointError,
    DamageError,
    LastAndBest,
    as_json,
    check_room,
    check_writable,
    list_differences,
    read_arrays,
    read_record,
    remove_leftovers,
    write,
)
from attent_jax.checkpointing._leaves import (
    Leaf,
    abstract,
    check_same_everywhere,
    checksums_of,
    describe_leaves,
    file_names,
    first_difference,
    restored,
    stored,
    stored_as,
)


class Checkpoint(NamedTuple):
    """What was saved at one step."""

    step: int
    state: PyTree
    """With the target's structure, and its arrays where the target's are."""
    position: dict[str, Any]
    """As JSON returns it: tuples come back as lists."""


class Checkpointer:
    """Saves a run's whole state, and verifies it when it is restored.

    `save` returns once the state is copied off the device, and writes it in the
    background. A save that is killed leaves nothing that looks like a checkpoint. Every
    leaf is stored with a checksum, which `restore` verifies.

    With several processes, each calls every method. What one process holds by itself
    (NumPy arrays, numbers, arrays on its own devices) must be the same on all.

    Args:
      folder: where the checkpoints of this one run are; made if it does not exist.
      target: a state to restore to, concrete or abstract (`jax.ShapeDtypeStruct`): any
        pytree of arrays, typed keys, NumPy arrays and Python numbers. Arrays come
        back with the target's sharding, however many devices they were saved from.
        Where the target has none, or is uncommitted, they come back uncommitted on the
        default device.
      identity: what identifies the run, as JSON data: the configuration, the pool's
        size and checksum, ... Checkpoints of another identity are refused.
      keep_last: how many of the latest checkpoints are kept, besides the best.

    Raises:
      CheckpointError: if the folder cannot be written, or has no room for what is
        kept and one checkpoint more.
      TypeError, ValueError: for a folder that is not a path, a leaf that is not an
        array or a number, an identity that is not JSON data, or a keep_last that is not
        an integer >= 1.

    Example:
      >>> import tempfile, jax, jax.numpy as jnp
      >>> from attent_jax.checkpointing import Checkpointer
      >>> state = {"params": jnp.arange(3.0), "key": jax.random.key(0)}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with Checkpointer(folder, state, identity={"seed": 0}) as checkpointer:
      ...         print(checkpointer.restore())
      ...         checkpointer.save(10, state, {"epoch": 1})
      ...     with Checkpointer(folder, state, identity={"seed": 0}) as checkpointer:
      ...         step, state, position = checkpointer.restore()
      None
      >>> step, state["params"], position
      (10, Array([0., 1., 2.], dtype=float32), {'epoch': 1})
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        target: PyTree,
        *,
        identity: Mapping[str, Any],
        keep_last: int = 2,
    ):
        if not isinstance(folder, str | os.PathLike):
            raise TypeError(
                f"folder must be a path, got {type(folder).__name__}: call "
                f"Checkpointer(folder, target, identity=...)."
            )
        self._folder = Path(folder).absolute()
        self._identity = as_json("identity", identity)
        self._leaves = describe_leaves("target", target)
        leaves, self._treedef = jax.tree.flatten(target)
        likes = [abstract(leaf) for leaf in leaves]  # which hold no memory
        self._likes = dict(zip(file_names(self._leaves), likes, strict=True))
        keep_last = check_count("keep_last", keep_last)
        check_writable(self._folder)
        check_room(self._folder, [stored_as(like) for like in likes], keep_last)
        self._kept = LastAndBest(keep_last)
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(preservation_policy=self._kept),
        )
        self._step: int | None = None  # saved or restored last
        self._is_closed = False
        for step in self._manager.all_steps():
            # A damaged checkpoint is refused when it is asked for, not here.
            with contextlib.suppress(DamageError):
                self._kept.rate(step, read_record(self._manager, step)["quality"])

    def save(
        self,
        step: int,
        state: PyTree,
        position: Mapping[str, Any] | None = None,
        *,
        quality: float | None = None,
    ) -> None:
        """Save the state after `step` steps, in the background.

        If an older checkpoint was restored, the first save after it removes the later
        ones. A step that was just saved or restored is not saved again.

        Args:
          step: number of steps that the run has taken; must rise from save to save.
          state: with the target's structure, shapes and dtypes, on any devices.
          position: what else the run needs to continue, as JSON data: the epoch, the
            step in it, the length of a log, ...
          quality: how good the state is, higher is better. The best is kept, and of
            equals the newer. None or NaN: not known.

        Raises:
          CheckpointError: if this or the previous save cannot be written, or the
            folder has checkpoints of which none was restored.
          TypeError, ValueError: for a state unlike the target, a position that is not
            JSON data, a step before the last, or a `Checkpointer` that is closed.
        """
        self._check_open()
        step = check_count("step", step, minimum=0)
        position = as_json("position", {} if position is None else position)
        if quality is not None:
            is_nan = bool(quality != quality)
            quality = None if is_nan else check_number("quality", quality)
        leaves = describe_leaves("state", state)
        if difference := first_difference(leaves, self._leaves):
            path, given, wanted = difference
            raise ValueError(
                f"state{path} is {given}, but the target has {wanted}: pass the whole "
                f"state, or make the target of its structure, shapes and dtypes."
            )
        if step == self._step:
            return
        if self._step is not None and step < self._step:
            raise ValueError(
                f"step must rise from save to save, got {step} after {self._step}: "
                f"restore(step=...) goes back."
            )
        arrays = [stored(leaf) for leaf in jax.tree.leaves(state)]
        checksums = checksums_of(arrays)
        check_same_everywhere([leaf.path for leaf in leaves], checksums)
        self._remove_later()  # waits for the previous save, only now
        record = {
            "step": step,
            "identity": self._identity,
            "position": position,
            "quality": quality,
            "leaves": [
                {**leaf._asdict(), "checksum": checksum}
                for leaf, checksum in zip(leaves, checksums, strict=True)
            ],
        }
        remove_leftovers(self._folder)
        # If orbax cannot make its folders, its error comes after five minutes.
        check_writable(self._folder)
        self._kept.rate(step, quality)
        with self._reporting_failure(step):
            write(self._manager, record, dict(zip(self._likes, arrays, strict=True)))
        self._step = step

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, rising; waits for the last save."""
        self.wait()
        return sorted(self._manager.all_steps())

    def restore(self, step: int | None = None) -> Checkpoint | None:
        """Read a checkpoint, and verify all of it.

        Args:
          step: which of `steps()`. None: the newest.

        Returns:
          The `Checkpoint`; None if there is none yet and no step was asked for.

        Raises:
          CheckpointError: if it has another identity, differs from the target in
            structure, shape or dtype, or is damaged. The message lists earlier ones;
            they are restored only if you ask for them.
          ValueError: if the `Checkpointer` is closed.
        """
        self._check_open()
        steps = self.steps()
        if step is None and not steps:
            return None
        step = steps[-1] if step is None else step
        if step not in steps:
            raise CheckpointError(
                f"No checkpoint of step {step} in {self._folder}: ask for one of "
                f"{steps}, or for None, the newest."
            )
        with self._reporting_damage(step):
            record = read_record(self._manager, step)
            self._check_is_own(step, record["identity"])
            checksums = [entry.pop("checksum") for entry in record["leaves"]]
            saved = [Leaf(**entry) for entry in record["leaves"]]
            self._check_fits(step, saved)
            arrays = read_arrays(self._manager, step, self._likes)
            found = checksums_of(arrays)
            for leaf, checksum, is_now in zip(saved, checksums, found, strict=True):
                if is_now != checksum:
                    raise DamageError(
                        f"state{leaf.path} has checksum {is_now}, saved was {checksum}"
                    )
        likes = self._likes.values()
        leaves = [
            restored(like, array, weak_type=leaf.weak_type)
            for like, array, leaf in zip(likes, arrays, saved, strict=True)
        ]
        self._step = step
        state = jax.tree.unflatten(self._treedef, leaves)
        return Checkpoint(step, state, record["position"])

    def wait(self) -> None:
        """Wait until the last save is written.

        Raises:
          CheckpointError: if it could not be written.
        """
        with self._reporting_failure(self._step):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait as `wait` does, and close; the `with` statement calls it."""
        try:
            self.wait()
        finally:
            self._manager.close()
            self._is_closed = True

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError(
                "this Checkpointer is closed: save and restore inside its `with` "
                "block, or before close()."
            )

    def _check_is_own(self, step: int, saved: Any) -> None:
        if differences := list_differences(saved, self._identity):
            raise CheckpointError(
                f"The checkpoint of step {step} in {self._folder} is another run's: "
                f"{differences}. To continue that run, set these as they were; else "
                f"choose another folder."
            )

    def _check_fits(self, step: int, saved: list[Leaf]) -> None:
        if difference := first_difference(saved, self._leaves):
            path, was, wanted = difference
            raise CheckpointError(
                f"The checkpoint of step {step} in {self._folder} does not fit: "
                f"state{path} was saved as {was}, the target has {wanted}. Restore "
                f"with the model and optimizer it was saved from, or start again in "
                f"another folder."
            )

    def _remove_later(self) -> None:
        steps = self.steps()
        if self._step is None and steps:
            raise CheckpointError(
                f"folder {self._folder} has checkpoints of steps {steps}, and none was "
                f"restored: call restore() to continue, or choose another folder."
            )
        for step in steps:
            if self._step is not None and step > self._step:
                self._manager.delete(step)

    @contextlib.contextmanager
    def _reporting_damage(self, step: int) -> Iterator[None]:
        try:
            yield
        except DamageError as damage:
            earlier = [s for s in sorted(self._manager.all_steps()) if s < step]
            remedy = (
                f"Earlier ones are of steps {earlier}: "
                f"ask with restore(step={earlier[-1]})"
                if earlier
                else "There is no earlier one: start again in another folder"
            )
            raise CheckpointError(
                f"The checkpoint of step {step} in {self._folder} is damaged: "
                f"{damage}. {remedy}."
            ) from damage

    @contextlib.contextmanager
    def _reporting_failure(self, step: int | None) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._manager.reload()
            steps = sorted(self._manager.all_steps())
            self._step = steps[-1] if steps else None
            raise CheckpointError(
                f"The checkpoint of step {step} could not be written to "
                f"{self._folder}: {error}. Those of steps {steps} are as they were; "
                f"make room, or choose another folder."
            ) from error
