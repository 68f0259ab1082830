"""Models of every family trace, are exact, and learn what PyTorch learns."""

import copy
from dataclasses import replace

import pytest
import torch
import transformers
from torch import Tensor, nn

from families import FAMILIES, LENGTH, MICRO_BATCHES, TOKENS, initialize, start, start_with
from tallystick.exact import accumulate
from tallystick.program.graph import Profile, decode_program, encode_program
from tallystick.program.losses import loss_function
from tallystick.program.training import Training, combine, contribution, mean_loss, record_indices, train_step
from tallystick.proof.roots import contribution_root, state_root

WITHOUT_DROPOUT = ["mlp", "lstm", "gru"]
TOLERANCE: dict[Profile, float] = {"full": 2e-5, "fast": 3e-3}
"""Of a gradient's largest entry."""


def torch_gradients(name: str, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    model = copy.deepcopy(model).train()
    loss_function(FAMILIES[name].loss)(model(x), y).backward()
    return {key: value.grad for key, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_traced_and_its_program_can_be_decoded(name: str) -> None:
    training, _, _ = start(name)
    assert decode_program(encode_program(training.program)) == training.program


@pytest.mark.parametrize("profile", ["full", "fast"])
@pytest.mark.parametrize("name", WITHOUT_DROPOUT)
def test_the_gradient_is_close_to_that_of_torch(name: str, profile: Profile) -> None:
    training, state, model = start(name, profile)
    chosen = record_indices(training, 0, 0)
    expected = torch_gradients(name, model, training.records["x"][chosen], training.records["y"][chosen])
    part = contribution(training, state, 0, 0)
    for key, theirs in expected.items():
        bits = accumulate.entry_bits(MICRO_BATCHES)
        ours = part[f"gradient/{key}"].double() * 2.0 ** (int(state[f"exponent/{key}"]) - bits)
        assert float((ours - theirs).abs().max()) <= TOLERANCE[profile] * float(theirs.abs().max()), key


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_learns(name: str) -> None:
    training, state, _ = start(name, "fast")
    losses = []
    for step in range(30):
        state, total = train_step(training, state, step)
        losses.append(mean_loss(int(total["loss"]), MICRO_BATCHES))
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5]), losses


@pytest.mark.parametrize("name", FAMILIES)
def test_micro_batches_may_be_combined_in_any_order(name: str) -> None:
    training, state, _ = start(name)
    parts = [contribution(training, state, 0, index) for index in range(MICRO_BATCHES)]
    assert contribution_root(combine(parts)) == contribution_root(combine(reversed(parts)))


def without_dropout(name: str) -> tuple[Training, dict[str, Tensor]]:
    """A run of a family that draws nothing: random numbers belong to the places of records, not to records."""
    model = FAMILIES[name].model()
    initialize(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return start_with(model, FAMILIES[name])


@pytest.mark.parametrize("name", [*WITHOUT_DROPOUT, "cnn", "transformer"])
def test_records_of_a_micro_batch_may_come_in_any_order(name: str) -> None:
    training, state = without_dropout(name)
    chosen = record_indices(training, 0, 0)
    turned = {key: value.index_copy(0, chosen, value[chosen.flip(0)]) for key, value in training.records.items()}
    assert any(not torch.equal(turned[key][chosen], value[chosen]) for key, value in training.records.items())
    first = contribution(training, state, 0, 0)
    assert contribution_root(contribution(replace(training, records=turned), state, 0, 0)) == contribution_root(first)


def test_running_statistics_and_counters_move_with_each_step() -> None:
    training, state, _ = start("cnn")
    after, _ = train_step(training, state, 0)
    assert int(after["buffer/1.num_batches_tracked"]) == 1
    assert not torch.equal(after["buffer/1.running_mean"], state["buffer/1.running_mean"])
    assert state_root(after, 1) != state_root(after | {"buffer/1.running_mean": state["buffer/1.running_mean"]}, 1)


def test_dropout_follows_from_seed_step_and_micro_batch_alone() -> None:
    training, state, _ = start("transformer")
    torch.manual_seed(1)
    first = contribution_root(contribution(training, state, 0, 0))
    torch.manual_seed(2)
    assert contribution_root(contribution(training, state, 0, 0)) == first


def test_the_profile_changes_the_bits_and_the_name_of_the_program() -> None:
    full, fast = start("mlp", "full"), start("mlp", "fast")
    assert full[0].spec.program != fast[0].spec.program
    roots = {contribution_root(contribution(training, state, 0, 0)) for training, state, _ in (full, fast)}
    assert len(roots) == 2


def third_party(name: str) -> nn.Module:
    """A small model of an architecture that somebody else wrote, from its configuration."""
    if name == "gpt2":
        return transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=TOKENS, n_positions=LENGTH, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
            )
        )
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=TOKENS,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
        )
    )


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_third_party_models_train_without_changes_to_their_source(name: str) -> None:
    training, state = start_with(third_party(name), FAMILIES["transformer"])
    losses = []
    for step in range(20):
        state, total = train_step(training, state, step)
        losses.append(mean_loss(int(total["loss"]), MICRO_BATCHES))
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5]), losses


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_convolutional_models_of_timm_train_without_changes_to_their_source(name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed; it needs a torchvision that fits torch")
    digits = FAMILIES["cnn"]

    def enlarged(d: dict[str, Tensor]) -> dict[str, Tensor]:
        records = digits.data(d)
        return {**records, "x": records["x"].repeat_interleave(4, 2).repeat_interleave(4, 3)}

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=10, in_chans=1)
    training, state = start_with(model, replace(digits, data=enlarged))
    losses = []
    for step in range(8):
        state, total = train_step(training, state, step)
        losses.append(mean_loss(int(total["loss"]), MICRO_BATCHES))
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3]), losses


@pytest.mark.parametrize("shape", [(-1, 2, 2, 4), (-1, 1, 1, 16)])
def test_pooling_takes_channels_that_lie_last(shape: tuple[int, ...]) -> None:
    """PyTorch then gives the result other strides, by an operator that looks at memory."""

    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(64, 16), nn.Linear(shape[-1], 10)

        def forward(self, x: Tensor) -> Tensor:
            pixels = self.first(x).view(shape).permute(0, 3, 1, 2)
            last: Tensor = self.last(nn.functional.adaptive_avg_pool2d(pixels, 1).flatten(1))
            return last

    training, state = start_with(ChannelsLast(), FAMILIES["mlp"])
    assert int(train_step(training, state, 0)[1]["loss"]) > 0
