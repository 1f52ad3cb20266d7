"""Shapes of the network. What departs from the reference is off in `mot17`."""

from __future__ import annotations

from dataclasses import dataclass

from motrlab.config.checks import check, check_at_least, check_words, later


@dataclass(frozen=True, kw_only=True)
class BackboneStage:
    """One EfficientNet stage: `blocks` MBConv blocks, the first with `stride`.

    `fused=True` takes the fused MBConv of EfficientNetV2 (arXiv 2104.00298, figure 2): one k×k convolution in place
    of expansion and depthwise convolution; with `expansion=1` that is a single convolution.
    """

    kernel: int
    blocks: int
    channels: int
    stride: int
    expansion: int
    fused: bool = False

    def __post_init__(self) -> None:
        check(self.kernel % 2 == 1, f"backbone stage: kernel must be odd, not {self.kernel}")
        check(self.stride in (1, 2), f"backbone stage: stride must be 1 or 2, not {self.stride}")
        check_at_least(self, "backbone stage", 1, "blocks")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shapes of the base graph and of the query interaction module (QIM).

    The transformer sees one feature level. With `upsample=True` the last backbone map is upsampled twofold and
    added to the map before it, which halves the level's stride: tiny images have too few cells otherwise.
    """

    height: int
    width: int
    backbone: str = "efficientnet"  # an entry of `motrlab.model.backbone.BACKBONES`; the next two fields are its shape
    stem_channels: int
    stages: tuple[BackboneStage, ...]
    upsample: bool = False
    activation: str = "relu"  # of the backbone: relu | relu6 (what EfficientNet-Lite weights were trained with)
    d_model: int = 256
    num_heads: int = 8
    ffn_channels: int = 1024
    encoder_layers: int = 6
    decoder_layers: int = 6
    encoder_points: int = 1
    decoder_points: int = 1
    num_detect: int = 256
    num_track: int = 256
    slot_columns: int = 128
    class_prior: float = 0.01  # initial score of every slot; the class bias is -log((1 - p) / p)
    num_classes: int = later(1)  # of tracked objects, each with a sigmoid output: as many as the data's classes
    query_memory: float = 0.0  # share of a track's query that the QIM keeps as it was, from 0 to below 1
    # Departures from the reference for small images; all are off in `mot17`.
    overlap_bias: bool = False  # learned attention bias from the overlap of two reference boxes
    relative_boxes: bool = False  # refinement in units of the reference box instead of in logit space
    anchor_grid: tuple[int, int] | None = None  # rows × columns of the detect references' first positions
    anchor_size: tuple[float, float] = (0.09, 0.35)  # their first width and height, fractions of the image

    def __post_init__(self) -> None:
        multiple = self.d_model % (2 * self.num_heads) == 0 == self.d_model % 4  # 4: sines and cosines of x and of y
        check(multiple, f"d_model ({self.d_model}) must be a multiple of twice num_heads, and of 4")
        sizes = ("encoder_layers", "decoder_layers", "encoder_points", "decoder_points", "height", "width")
        check_at_least(self, "model", 1, "num_detect", "num_track", "num_classes", *sizes)
        # Of the integer form: sums that float32 and int32 hold, weights of samples that are not all 0.
        head, points = self.d_model // self.num_heads, max(self.encoder_points, self.decoder_points)
        check(head <= 1024, f"d_model / num_heads must be at most 1024, not {head}")
        check(points <= 32, f"encoder_points and decoder_points must be at most 32, not {points}")
        check(self.num_slots <= 2**16, f"num_detect + num_track must be at most 65536, not {self.num_slots}")
        for name in ("num_detect", "num_track"):
            slots = getattr(self, name)
            check(slots % self.slot_columns == 0, f"{name} ({slots}) must be a multiple of {self.slot_columns}")
        if self.anchor_grid is not None:
            rows, columns = self.anchor_grid
            check(rows * columns == self.num_detect, f"anchor_grid {rows}×{columns} must have num_detect cells")
        check_words(self, "model", activation=("relu", "relu6"))
        check(0 < self.class_prior < 1, "class_prior must be between 0 and 1")
        check(0 <= self.query_memory < 1, f"query_memory must be at least 0 and below 1, not {self.query_memory}")

    @property
    def num_slots(self) -> int:
        """Detect slots, then track slots."""
        return self.num_detect + self.num_track
