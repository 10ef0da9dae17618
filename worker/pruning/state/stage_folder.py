"""The files of one stage: where they are, and what turns pruned blocks into a plain Hugging Face folder."""

from dataclasses import dataclass
from pathlib import Path

from worker.model_files.choose import INDEX, is_companion
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import ModelGraph
from worker.pruning.request import PruningJob
from worker.pruning.state.atomic import write_bytes, write_json


@dataclass(frozen=True)
class StageFolder:
    """Paths of one stage, relative to the workspace; `blocks` decides the shards' numbering.

    stage: −1 for the stage that a continuation begins at, whose files lie in the folder `base`.
    """

    workspace: Path
    stage: int
    blocks: int
    base: str = ""

    @property
    def root(self) -> str:
        return self.base if self.stage < 0 else f"stage-{self.stage:02d}"

    @property
    def model(self) -> str:
        return f"{self.root}/model"

    def shard_name(self, number: int) -> str:
        """Shards are counted from 1; the last one holds everything outside the blocks."""
        return f"model-{number + 1:05d}-of-{self.blocks + 1:05d}.safetensors"

    def shard(self, block: int) -> str:
        return f"{self.model}/{self.shard_name(block)}"

    def state(self, block: int) -> str:
        return f"{self.root}/state/block-{block:04d}.safetensors"

    def solved(self, block: int) -> str:
        """A block as it was before the whole model was tuned; there once it is."""
        return f"{self.root}/solved/block-{block:04d}.safetensors"

    def sensitivity(self, block: int) -> str:
        """Apart from the stage's folder: it is kept when that goes, and is called the same in the artifact."""
        return f"sensitivity/stage-{self.stage:02d}/block-{block:04d}.safetensors"

    def path(self, relative: str) -> Path:
        return self.workspace / relative

    def complete(self, source: Checkpoint, graph: ModelGraph) -> list[str]:
        """Write all beside the blocks' shards: outer shard, index, config, tokenizer, terms. Returns all files."""
        folder = self.path(self.model)
        outer, others = folder / self.shard_name(self.blocks), (*graph.outer, *graph.aside)
        if not outer.exists():
            source.copy(others, outer)
        places = {name: self.shard_name(self.blocks) for name in others}
        for block in graph.blocks:
            places.update(dict.fromkeys(block.tensors, self.shard_name(block.index)))
        total = sum(source.tensors[name].bytes for name in places)
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
        files = sorted(path.name for path in source.folder.iterdir() if path.is_file())
        copied = list(filter(is_companion, files))
        for name in copied:
            write_bytes(folder / name, (source.folder / name).read_bytes())
        shards = [self.shard_name(number) for number in range(self.blocks + 1)]
        return [f"{self.model}/{name}" for name in sorted([*copied, INDEX, *shards])]


def stage_folder(job: PruningJob, stage: int, blocks: int) -> StageFolder:
    """A stage of this job, or −1 for the last one of the job that it continues."""
    return StageFolder(job.workspace, stage, blocks, job.base.folder if job.base else "")
