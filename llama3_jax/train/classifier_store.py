"""A trained classifier on disk, found and opened."""

import dataclasses

from jax.sharding import Mesh

from llama3_jax.core import config as config_lib
from llama3_jax.core.params import Params, abstract_params
from llama3_jax.core.paths import path_of
from llama3_jax.model.roberta import Roberta
from llama3_jax.train.checkpoint import CheckpointError, Checkpoints
from llama3_jax.train.classifier_config import ClassifierConfig

CLASSIFIER = "classifier"  # key of run.json: a `ClassifierConfig`
TOKENIZER = "tokenizer.json"  # in the work folder, beside final/


@dataclasses.dataclass(frozen=True)
class StoredClassifier:
    """A trained classifier that was found and understood; its arrays are not read yet."""

    folder: str
    step: int
    config: ClassifierConfig
    tokenizer: str

    def restore(self, module: Roberta, mesh: Mesh) -> Params:
        """The parameters with the dtypes of `module`, placed on `mesh`."""
        checkpoints = Checkpoints(str(path_of(self.folder) / "final"), read_only=True)
        try:
            return checkpoints.restore_params(self.step, abstract_params(module, mesh, module.layout))
        finally:
            checkpoints.close()


def open_classifier(folder: str) -> StoredClassifier:
    """The finished run of a work folder. Raises FileNotFoundError when there is none."""
    final = path_of(folder) / "final"
    checkpoints = Checkpoints(str(final), read_only=True) if final.is_dir() else None
    step = checkpoints.latest() if checkpoints else None
    if checkpoints is None or step is None:
        raise FileNotFoundError(f"{folder} has no trained classifier (final/)")
    content = checkpoints.read_run(step)
    checkpoints.close()
    if CLASSIFIER not in content:
        raise CheckpointError(f"{folder} holds a model that is no classifier")
    config = config_lib.freeze(ClassifierConfig, content[CLASSIFIER], "checkpoint")
    return StoredClassifier(folder, step, config, str(path_of(folder) / TOKENIZER))
