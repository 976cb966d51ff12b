"""How fast image and text are fused and captions written, beside transformers' own layers.

    python tests/benchmarks/bench_fusion.py             # ratios on the CPU
    python tests/benchmarks/bench_fusion.py --rounds 9
    python tests/benchmarks/bench_fusion.py --device cuda   # CoSwin-H, RoBERTa-base: pairs/s, MFU

Fusion: two stacks of co-attention against transformers' BridgeTower layers of the same width and
number on the same tokens, forward and backward. Captions: a decoder with transformers' weights, by
our search and by ``generate``; greedy ones must have the same tokens.

The sides take turns within every round; the ratio is the median over rounds of the ratio within a
round. The clock is the process's own time with one thread, which stands still while others compute.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))
from florence.config import Precision, architecture_of
from florence.models.bert import BertLayer, KeyValues, LayerSizes
from florence.models.compilation import compile_blocks
from florence.models.fusion import Fusion, FusionSizes
from florence.models.generation import Writing, beam_search, greedy
from florence.models.roberta import Roberta, RobertaSizes
from florence.models.vision_language import BuildOptions, VisionLanguageShape
from florence.planner.speed import gpu_named
from florence.tasks.vlp.cost import VlpCost
from florence.tasks.vlp.data import CaptionedBatch
from florence.tasks.vlp.model import PretrainingModel
from florence.tasks.vlp.settings import Vlp
from florence.tasks.vlp.task import PretrainingObjective
from florence.text.coding import ClipCoder
from florence.text.masking import IGNORED
from tests.benchmarks.cuda_steps import measured

Step = Callable[[], Any]


class BridgeTowerStacks(nn.Module):
    """METER's symmetric reading with transformers' layers."""

    def __init__(self, sizes: FusionSizes) -> None:
        super().__init__()
        from transformers import BridgeTowerConfig
        from transformers.models.bridgetower.modeling_bridgetower import BridgeTowerBertCrossLayer

        config = BridgeTowerConfig(
            hidden_size=sizes.width,
            num_attention_heads=sizes.heads,
            intermediate_size=sizes.hidden,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        config.is_decoder = False
        config.attention_probs_dropout_prob = config.hidden_dropout_prob = 0.0
        config._attn_implementation = "sdpa"
        layers = [BridgeTowerBertCrossLayer(config) for _ in range(2 * sizes.layers)]
        self.text, self.image = (nn.ModuleList(layers[i::2]) for i in (0, 1))

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        """The sum of both streams."""
        for of_text, of_image in zip(self.text, self.image, strict=True):
            new = of_text(text, image)
            other = of_image(image, text)
            text, image = (each[0] if isinstance(each, tuple) else each for each in (new, other))
        return text.sum() + image.sum()


def fusion_steps(batch: int, words: int, tokens: int) -> dict[str, Step]:
    """Forward and backward of both, at METER's width with two layers."""
    sizes = FusionSizes(layers=2)
    ours = Fusion(sizes, text_width=sizes.width, image_width=sizes.width, dropout=0.0).train()
    theirs = BridgeTowerStacks(sizes).train()
    text = torch.randn(batch, words, sizes.width, requires_grad=True)
    image = torch.randn(batch, tokens, sizes.width, requires_grad=True)

    def our_step() -> None:
        x, y = text, image
        for of_text, of_image in zip(ours.text_layers, ours.image_layers, strict=True):
            x, y = of_text(x, None, y), of_image(y, None, x)
        (x.sum() + y.sum()).backward()

    def their_step() -> None:
        theirs(text, image).backward()

    return {"ours": our_step, "transformers": their_step}


@dataclass(frozen=True)
class Past:
    """Keys and values of tokens so far by layer, and of the images."""

    layers: list[KeyValues | None]
    images: list[KeyValues]

    def chosen(self, rows: Tensor) -> Past:
        """Those of some texts."""
        return replace(self, layers=[each and each.chosen(rows) for each in self.layers])


class OurDecoder(nn.Module):
    """transformers' RoBERTa decoder with cross-attention, of our layers and with its weights."""

    device = torch.device("cpu")

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        config = theirs.config
        sizes = RobertaSizes(
            vocabulary=config.vocab_size,
            width=config.hidden_size,
            layers=0,
            heads=config.num_attention_heads,
            hidden=config.intermediate_size,
            positions=config.max_position_embeddings,
            norm_eps=config.layer_norm_eps,
        )
        layer = LayerSizes(
            width=sizes.width, heads=sizes.heads, hidden=sizes.hidden, norm_eps=sizes.norm_eps
        )
        self.text = Roberta(sizes, dropout=0.0)
        state = theirs.roberta.embeddings.state_dict()
        self.text.embeddings.load_state_dict(
            {name: value for name, value in state.items() if not name.endswith("_ids")}
        )
        self.layers = nn.ModuleList(
            BertLayer(layer, crossing=True) for _ in range(config.num_hidden_layers)
        )
        for own, other in zip(self.layers, theirs.roberta.encoder.layer, strict=True):
            own.load_state_dict(other.state_dict())
        self.head = theirs.lm_head

    def start(self, images: Tensor) -> Past:
        """The state before the first token."""
        others = [layer.crossattention.key_values(images) for layer in self.layers]
        return Past([None] * len(self.layers), others)

    def step(self, tokens: Tensor, position: int, state: Any) -> tuple[Tensor, Past]:
        """See :class:`florence.models.generation.Decoder`."""
        x, _ = self.text.step(tokens, position, [])
        seen: list[KeyValues | None] = []
        for layer, past, other in zip(self.layers, state.layers, state.images, strict=True):
            x, after = layer.step(x, past, other)
            seen.append(after)
        x = self.head.layer_norm(F.gelu(self.head.dense(x[:, 0])))
        return self.head.decoder(x), Past(seen, state.images)


def caption_steps(batch: int, tokens: int, length: int) -> dict[str, dict[str, Step]]:
    """Writing captions by 4 beams and greedily, by both."""
    from transformers import RobertaConfig, RobertaForCausalLM

    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=8_000,
        hidden_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=1_024,
        max_position_embeddings=80,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        is_decoder=True,
        add_cross_attention=True,
    )
    theirs = RobertaForCausalLM(config).eval()
    for name, parameter in theirs.named_parameters():
        if parameter.ndim > 1 and "LayerNorm" not in name:
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    ours = OurDecoder(theirs).eval()
    images = torch.randn(batch, tokens, 256)
    start = torch.full((batch, 1), config.bos_token_id)

    def their(beams: int) -> Tensor:
        with torch.no_grad():
            found: Tensor = theirs.generate(
                start,
                attention_mask=torch.ones_like(start),
                encoder_hidden_states=images,
                num_beams=beams,
                do_sample=False,
                max_new_tokens=length,
                min_new_tokens=length,
                use_cache=True,
            )
        return found[:, 1:]

    def our(beams: int) -> Tensor:
        # No end token is ever chosen, as there: both write the same number of tokens.
        how = Writing(start=config.bos_token_id, end=0, padding=1, length=length, beams=beams)
        search = greedy if beams == 1 else beam_search
        with torch.no_grad():
            return search(ours, ours.start(images), batch, how).tokens

    for decoder in (theirs.lm_head.decoder,):
        with torch.no_grad():
            decoder.bias[[0, config.eos_token_id]] = -1e4
    if not torch.equal(our(1), their(1)):
        raise SystemExit("greedy captions differ")
    return {
        "captions, 4 beams": {"ours": lambda: our(4), "transformers": lambda: their(4)},
        "captions, greedy": {"ours": lambda: our(1), "transformers": lambda: their(1)},
    }


def compare(title: str, steps: dict[str, Step], rounds: int) -> None:
    """Print the ratio of transformers' time to ours."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name in list(steps) if number % 2 else list(reversed(steps)):
            start = time.process_time()
            steps[name]()
            if number:
                times[name].append(time.process_time() - start)
    ratios = [b / a for a, b in zip(times["ours"], times["transformers"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"{title:34} ours {middle:5.3f} x transformers (quartiles {low:.3f} to {high:.3f})")


def captioned(batch: int, resolution: int, length: int, group: int) -> CaptionedBatch:
    """Noise with captions of full length, one word in seven hidden, half of them negatives."""
    ids = torch.randint(5, RobertaSizes().vocabulary, (batch, length))
    hidden = torch.zeros_like(ids, dtype=torch.bool)
    hidden[:, 1::7] = True
    own = torch.arange(batch) % group
    return CaptionedBatch(
        keys=tuple(map(str, range(batch))),
        images=torch.randn(batch, 3, resolution, resolution),
        input_ids=ids,
        masked_ids=ids.masked_fill(hidden, 4),
        targets=ids.masked_fill(~hidden, IGNORED),
        lengths=torch.full((batch,), length),
        is_negative=own % 2 == 1,
        eligible=own[:, None] != torch.arange(group),
        chances=torch.rand(batch),
    )


def huge_on_cuda(rounds: int, batches: dict[int, int]) -> None:
    """CoSwin-H, RoBERTa-base and METER's fusion, a step of ``vlp`` in bf16: pairs/s, MFU, memory.

    Args:
        rounds: steps that are timed.
        batches: pairs at once, by the images' side in pixels.
    """
    architecture, card = architecture_of("coswin-h"), torch.cuda.get_device_name()
    peak = gpu_named(card.replace(" ", "-")).peak(Precision.BF16)
    cuda, objective = torch.device("cuda"), PretrainingObjective()
    for compiled, (resolution, batch) in product((False, True), batches.items()):
        window = resolution // 32
        settings = Vlp(data="x", batch_size=batch, steps=1, resolution=resolution, window=window)
        shape = VisionLanguageShape(
            roberta=RobertaSizes(),
            # Only its vocabulary would be asked for, and RoBERTa brings its own.
            coder=ClipCoder(),
            fusion=FusionSizes(),
            text_length=settings.text_length,
        )
        with cuda:
            model = PretrainingModel(architecture, shape, BuildOptions(window=window))
        model.reset_parameters(torch.Generator("cuda").manual_seed(0))
        if compiled:
            compile_blocks(model)
        group = min(batch, settings.negative_group)
        data = captioned(batch, resolution, settings.text_length, group).to(cuda)

        def step(model: PretrainingModel = model, data: CaptionedBatch = data) -> None:
            with torch.autocast("cuda", dtype=torch.bfloat16):
                outputs = objective.outputs(model, data)
            objective.loss(outputs, data, objective.prepare(data)).value.backward()
            model.zero_grad(set_to_none=True)

        seconds, memory = measured(step, rounds)
        rate = batch / seconds
        flops = VlpCost().training_flops(architecture, settings).total
        print(
            f"{card}, {resolution} px, {batch} pairs, {'compiled' if compiled else 'eager':8} "
            f"{rate:6.1f} pairs/s   MFU {rate * flops / peak:6.1%}   peak "
            f"{memory / 2**30:5.1f} GiB   {flops / 1e9:.0f} GFLOP each",
            flush=True,
        )
        del model, step
        torch.cuda.empty_cache()


def main() -> None:
    """Run all comparisons."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    if arguments.device == "cuda":
        huge_on_cuda(arguments.rounds, {384: 32, 576: 16})
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    steps = fusion_steps(arguments.batch, words=50, tokens=144)
    compare("fusion, forward and backward", steps, arguments.rounds)
    for title, writers in caption_steps(arguments.batch, tokens=144, length=20).items():
        compare(title, writers, arguments.rounds)


if __name__ == "__main__":
    main()
