"""A small GPT-2 trained with the Hugging Face `Trainer`, recorded, and the `setup` that a verifier replays it with.

python examples/tolerant/with_trainer.py hf-1 --seed 1
"""

import argparse
import tempfile
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from tallystick.proof.tolerant import Run
from tallystick.proof.tolerant.huggingface import ProofCallback, run_of

TEXT = "A tally stick recorded a debt as notches across one piece of wood, which was then split. " * 24
WINDOW = 32


def build(seed: int, **arguments: Any) -> Trainer:
    """The trainer, as anybody would write it."""
    set_seed(seed)
    letters = sorted(set(TEXT))
    ids = [letters.index(letter) for letter in TEXT]
    windows = [ids[start : start + WINDOW] for start in range(0, len(ids) - WINDOW, WINDOW // 2)]
    data = [{"input_ids": torch.tensor(window), "labels": torch.tensor(window)} for window in windows]
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(letters), n_positions=WINDOW, n_embd=32, n_layer=1, n_head=2,
                   bos_token_id=0, eos_token_id=0)
    )  # fmt: skip
    settings = TrainingArguments(
        **{
            "output_dir": tempfile.mkdtemp(), "seed": seed, "num_train_epochs": 3, "learning_rate": 5e-3,
            "per_device_train_batch_size": 8, "save_strategy": "no", "report_to": [], "use_cpu": True,
            "disable_tqdm": True, **arguments,
        }
    )  # fmt: skip
    return Trainer(model=model, args=settings, train_dataset=data)


def setup(seed: int) -> Run:
    return run_of(build(seed))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("record")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    trainer = build(options.seed)
    trainer.add_callback(ProofCallback(options.record, interval=5))
    trainer.train()


if __name__ == "__main__":
    main()
