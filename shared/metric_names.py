"""The metrics by which tasks are judged: how each is computed, and how it may be called.

*exact*: the literature's own definition, computable without downloaded weights. *local*: the
literature's formula over a feature network that is ours or the user's own. A local metric is always
printed as ``name@local``: its figures compare with each other, not with published ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

__all__ = ["METRICS", "Metric"]


@dataclass(frozen=True)
class Metric:
    """A metric: its name, what it is computed with, and whether it is the published one."""

    name: str
    how: str
    kind: Literal["exact", "local"]

    @property
    def printed(self) -> str:
        """The name under which a figure may be shown."""
        return self.name if self.kind == "exact" else f"{self.name}@local"


# fmt: off
_ROWS = (
    Metric("ndcg", "torchmetrics.retrieval", "exact"),
    Metric("hit_rate", "torchmetrics.retrieval", "exact"),
    Metric("precision", "torchmetrics.retrieval", "exact"),
    Metric("recall", "torchmetrics.retrieval", "exact"),
    Metric("win_rate", "own: preference oracle", "local"),
    Metric("rouge", "rouge-score", "exact"),
    Metric("bleu", "sacrebleu", "exact"),
    Metric("meteor", "nltk, stub wordnet: exact+stem stages only", "local"),
    Metric("accuracy", "own", "exact"),
    Metric("f1_macro", "own", "exact"),
    Metric("mae_rmse", "own", "exact"),
    Metric("bertscore", "torchmetrics.text.bert own model", "local"),
    Metric("persona_consistency", "own NLI-free contradiction probe / attribute F1", "local"),
    Metric("authorship_gap", "own style embedder, floor/ceiling calibrated", "local"),
    Metric("clip_i", "own CLIPModel towers", "local"),
    Metric("dino_i", "own Dinov2Model", "local"),
    Metric("clip_t", "own CLIPModel towers", "local"),
    Metric("face_sim", "own face embedder", "local"),
    Metric("lpips", "own tower, LPIPS formula", "local"),
    Metric("ssim", "torchmetrics", "exact"),
    Metric("ms_ssim", "torchmetrics (>160 px or reduced betas)", "exact"),
    Metric("psnr", "torchmetrics", "exact"),
    Metric("fid", "torchmetrics, own feature module", "local"),
    Metric("kid", "torchmetrics, own feature module", "local"),
    Metric("is", "torchmetrics, own classifier", "local"),
    Metric("r_precision", "own towers", "local"),
    Metric("pref_score", "own reward model (stands for ImageReward/PickScore/HPS)", "local"),
    Metric("ctr", "own logged-policy replay (IPS/SNIPS)", "exact"),
    Metric("compatibility", "own outfit scorer", "local"),
    Metric("l1", "torch", "exact"),
    Metric("fvd", "own video tower, Frechet", "local"),
    Metric("temporal_consistency", "own CLIP tower, adjacent frames", "local"),
    Metric("lmd", "renderer landmarks", "exact"),
    Metric("lse_d", "own audio-visual sync tower", "local"),
    Metric("lse_c", "own audio-visual sync tower", "local"),
    Metric("akd", "renderer/own keypoints", "local"),
    Metric("mkr", "renderer/own keypoints", "local"),
    Metric("chamfer", "scipy cKDTree", "exact"),
    Metric("volume_iou", "own occupancy grid", "exact"),
    Metric("p2s", "trimesh", "exact"),
    Metric("normal_consistency", "trimesh", "exact"),
    Metric("mpjpe", "torch", "exact"),
    Metric("pa_mpjpe", "torchmetrics.shape", "exact"),
    Metric("mpve", "torch", "exact"),
    Metric("lve", "torch", "exact"),
    Metric("fdd", "torch", "exact"),
    Metric("clap", "own ClapModel towers", "local"),
    Metric("embedding_distance", "own towers", "local"),
    Metric("fad", "own audio tower, Frechet", "local"),
    Metric("prdc", "own (prdc prints to stdout)", "exact"),
    Metric("stoi", "pystoi", "exact"),
    Metric("estoi", "pystoi extended", "exact"),
    Metric("pesq", "pesq (C build, 8/16 kHz)", "exact"),
    Metric("pattern_sim", "own symbolic music", "exact"),
    Metric("cider", "own (pycocoevalcap needs Java for its tokenizer)", "exact"),
    Metric("concept_prf", "own", "exact"),
    Metric("success_rate", "gymnasium roll-outs", "exact"),
    Metric("spl", "own", "exact"),
    Metric("distance_to_goal", "own", "exact"),
    Metric("episode_length", "own", "exact"),
)
# fmt: on

METRICS = MappingProxyType({metric.name: metric for metric in _ROWS})
"""Every metric by its name."""
