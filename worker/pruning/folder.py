"""The files of one stage: where they are, and what turns pruned blocks into a plain Hugging Face folder."""

from dataclasses import dataclass
from pathlib import Path

from worker.pruning.calibration import TOKENIZER_FILES
from worker.pruning.checkpoint import INDEX, Checkpoint
from worker.pruning.files import write_bytes, write_json, write_tensors
from worker.pruning.skeleton import Skeleton

COPIED = (
    "config.json",
    "generation_config.json",
    *TOKENIZER_FILES,
    "vocab.txt",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass(frozen=True)
class StageFolder:
    """Paths of one stage, relative to the workspace; `blocks` decides the shards' numbering."""

    workspace: Path
    stage: int
    blocks: int

    @property
    def model(self) -> str:
        return f"stage-{self.stage:02d}/model"

    def shard_name(self, number: int) -> str:
        """Shards are counted from 1; the last one holds everything outside the blocks."""
        return f"model-{number + 1:05d}-of-{self.blocks + 1:05d}.safetensors"

    def shard(self, block: int) -> str:
        return f"{self.model}/{self.shard_name(block)}"

    def state(self, block: int) -> str:
        return f"stage-{self.stage:02d}/state/block-{block:04d}.safetensors"

    def path(self, relative: str) -> Path:
        return self.workspace / relative

    def complete(self, source: Checkpoint, skeleton: Skeleton) -> list[str]:
        """Write everything beside the blocks' shards: outer shard, index, config, tokenizer. Returns all files."""
        folder = self.path(self.model)
        outer = folder / self.shard_name(self.blocks)
        if not outer.exists():
            write_tensors(outer, source.read(skeleton.outer))
        places = {name: self.shard_name(self.blocks) for name in skeleton.outer}
        for block in skeleton.blocks:
            places.update(dict.fromkeys(block.tensors, self.shard_name(block.index)))
        total = sum(source.tensors[name].bytes for name in places)
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
        copied = [name for name in COPIED if (source.folder / name).is_file()]
        for name in copied:
            write_bytes(folder / name, (source.folder / name).read_bytes())
        shards = [self.shard_name(number) for number in range(self.blocks + 1)]
        return [f"{self.model}/{name}" for name in sorted([*copied, INDEX, *shards])]
