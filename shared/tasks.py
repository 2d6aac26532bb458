"""The tasks of personalized generation, as data.

A task is a row: which of a person's contexts it starts from, what is given and made, how the person
is modelled, how that guides the generator, what may be trained, and how results are judged.
Engines read rows; no code names a task. Source: "A Survey of Personalized Generation", Table 1 and
§2, with its three aims: quality, alignment with the instruction, personalization.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Literal, get_args

from .errors import BadInputError
from .metric_names import METRICS

__all__ = [
    "TASKS",
    "ContextKind",
    "Engine",
    "Given",
    "Guidance",
    "Objective",
    "Task",
    "UserModelKind",
]

ContextKind = Literal["profile", "documents", "behaviors", "face_body", "subjects"]
Given = Literal["text", "image", "mask", "pose", "video", "audio", "camera", "goal"]
Engine = Literal["causal_lm", "image", "video", "geometry", "audio", "vlm", "policy"]
UserModelKind = Literal[
    "embedding",
    "structured_prompt",
    "summary",
    "retrieval",
    "soft_prefix",
    "concept_tokens",
    "latent_z",
]
Guidance = Literal[
    # by instruction
    "prompt",
    "in_context",
    "rag",
    "reasoning",
    # by structure
    "class_embed",
    "image_tokens",  # decoupled cross-attention, as in IP-Adapter
    "extra_channels",
    "controlnet",
    "ref_kv",  # a reference network's features, joined in self-attention
    "cond_tokens",
    "speaker_embed",
    "cfg",
]
Objective = Literal[
    "tuning_free",
    "sft_lora",
    "textual_inversion",
    "dreambooth_pp",  # prior preservation
    "prefix",
    "dpo",
    "kto",
    "diffusion_dpo",
    "vpl",  # variational preference learning
    "best_of_n_rft",
]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of personalized generation.

    Args:
        id: ``modality.name``, such as ``image.face``.
        context: the personalized context that it starts from.
        instruction: what the person gives.
        output: what is made, in words.
        engine: the generator that makes it.
        user_model: how the person can be modelled.
        guidance: how the model of the person steers the generator.
        objectives: what can be trained, if anything.
        quality: names of metrics of the content alone.
        alignment: names of metrics of how well it follows the instruction.
        personalization: names of metrics of how well it suits the person.
        systems: published systems that the task stands for.
        note: what is particular about it.

    Raises:
        BadInputError: a field is empty or has a word that is not known; all of them are named.
    """

    id: str
    context: ContextKind
    instruction: tuple[Given, ...]
    output: str
    engine: Engine
    user_model: tuple[UserModelKind, ...]
    guidance: tuple[Guidance, ...]
    objectives: tuple[Objective, ...]
    quality: tuple[str, ...]
    alignment: tuple[str, ...]
    personalization: tuple[str, ...]
    systems: tuple[str, ...]
    note: str = ""

    def __post_init__(self) -> None:
        problems = [*_unknown_words(self), *_empty_fields(self)]
        if problems:
            raise BadInputError(f"task {self.id!r}: {'; '.join(problems)}")

    @classmethod
    def of(cls, id: str) -> Task:
        """The registered task of that id.

        Raises:
            BadInputError: there is none; ids that look alike are named.
        """
        if id in TASKS:
            return TASKS[id]
        near = get_close_matches(id, TASKS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "'locavore tasks' lists them"
        raise BadInputError(f"no task {id!r}; {hint}")

    @property
    def modality(self) -> str:
        """What the id begins with: text, image, video, 3d, audio or cross."""
        return self.id.partition(".")[0]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all metrics, each once, in the order of the three aims."""
        return tuple(dict.fromkeys((*self.quality, *self.alignment, *self.personalization)))


def _unknown_words(task: Task) -> list[str]:
    """Every word of the task that its field does not know, in sentences."""
    vocabulary: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
        "context": ((task.context,), get_args(ContextKind)),
        "instruction": (task.instruction, get_args(Given)),
        "engine": ((task.engine,), get_args(Engine)),
        "user_model": (task.user_model, get_args(UserModelKind)),
        "guidance": (task.guidance, get_args(Guidance)),
        "objectives": (task.objectives, get_args(Objective)),
        "quality": (task.quality, tuple(METRICS)),
        "alignment": (task.alignment, tuple(METRICS)),
        "personalization": (task.personalization, tuple(METRICS)),
    }
    return [
        f"{field} {word!r} is not one of {', '.join(known)}"
        for field, (words, known) in vocabulary.items()
        for word in words
        if word not in known
    ]


def _empty_fields(task: Task) -> list[str]:
    needed = ("id", "instruction", "output", "user_model", "guidance", "objectives", "systems")
    return [f"{field} is empty" for field in needed if not getattr(task, field)] + (
        [] if task.metrics else ["it has no metric"]
    )


# fmt: off
_ROWS = (
    Task(
        id="text.recommendation", context="behaviors", instruction=("text",),
        output="item text grounded to catalogue ids", engine="causal_lm",
        user_model=("embedding", "structured_prompt"), guidance=("prompt", "rag"),
        objectives=("sft_lora", "tuning_free"), quality=(), alignment=("ndcg", "hit_rate"),
        personalization=("ndcg", "hit_rate", "precision", "recall"),
        systems=("BIGRec", "LLM-Rec", "DEALRec", "DreamRec"),
        note="two-step grounding: a title, then the nearest item by embedding and popularity",
    ),
    Task(
        id="text.information_seeking", context="behaviors", instruction=("text",),
        output="answer / summary", engine="causal_lm", user_model=("soft_prefix", "embedding"),
        guidance=("prompt", "rag"), objectives=("dpo", "kto"), quality=("bertscore",),
        alignment=("rouge",), personalization=("win_rate", "ndcg"), systems=("P-RLHF", "ComPO"),
        note="user model = per-user soft prompt + generic prompt (P-RLHF); community id (ComPO)",
    ),
    Task(
        id="text.writing_assistant", context="documents", instruction=("text",),
        output="headline, title, subject, tweet, review, abstract", engine="causal_lm",
        user_model=("retrieval", "summary"), guidance=("in_context", "rag", "reasoning"),
        objectives=("sft_lora", "best_of_n_rft"), quality=("bleu",), alignment=("rouge",),
        personalization=(
            "rouge", "bertscore", "authorship_gap", "accuracy", "f1_macro", "mae_rmse",
        ),
        systems=("LaMP", "RSPG", "REST-PG", "HYDRA", "PEARL", "Panza"),
    ),
    Task(
        id="text.dialogue", context="profile", instruction=("text",), output="response",
        engine="causal_lm", user_model=("structured_prompt", "summary"),
        guidance=("prompt", "in_context"), objectives=("sft_lora", "dpo"), quality=("bleu",),
        alignment=("rouge",), personalization=("persona_consistency", "rouge"),
        systems=("PAED", "BoB", "UniMS-RAG", "ORIG"),
        note="persona sentences shuffled at training time (ORIG) + contradiction term (BoB)",
    ),
    Task(
        id="text.user_simulation", context="profile", instruction=("text",),
        output="in-character utterance / answer distribution", engine="causal_lm",
        user_model=("structured_prompt", "concept_tokens"), guidance=("prompt", "in_context"),
        objectives=("sft_lora",), quality=("bleu",), alignment=("rouge",),
        personalization=("persona_consistency", "rouge", "accuracy"),
        systems=("Character-LLM", "RoleLLM", "Drama Machine"),
        note="protective scenes: refuse knowledge outside the profile",
    ),
    Task(
        id="image.general", context="behaviors", instruction=("text",), output="image",
        engine="image", user_model=("summary", "embedding"),
        guidance=("prompt", "image_tokens", "cfg"), objectives=("sft_lora", "diffusion_dpo"),
        quality=("fid",), alignment=("clip_t",),
        personalization=("clip_i", "dino_i", "lpips", "ssim", "ms_ssim"),
        systems=("PMG", "Pigeon", "PASTA", "I-AM-G", "DRC"),
    ),
    Task(
        id="image.fashion_design.behaviors", context="behaviors", instruction=("text", "image"),
        output="outfit: k item images", engine="image", user_model=("embedding",),
        guidance=("class_embed", "image_tokens", "cfg"), objectives=("sft_lora", "diffusion_dpo"),
        quality=("fid",), alignment=("clip_t", "compatibility"),
        personalization=("clip_i", "dino_i", "lpips", "ssim"),
        systems=("DiFashion", "Yu et al. 2019", "FashionDPO"),
        note="k images denoised in parallel; category, mutual and history guided separately",
    ),
    Task(
        id="image.product.behaviors", context="behaviors", instruction=("text", "image", "mask"),
        output="product image", engine="image", user_model=("embedding", "structured_prompt"),
        guidance=("extra_channels", "prompt"), objectives=("sft_lora", "tuning_free"),
        quality=("fid",), alignment=("clip_t",), personalization=("ctr",),
        systems=("AdBooster", "Vashishtha et al.", "Czapp et al."),
        note="out-painting around a fixed product mask; contextual bandit over prompts",
    ),
    Task(
        id="image.fashion_design.profiles", context="profile", instruction=("text",),
        output="outfit image", engine="image", user_model=("structured_prompt",),
        guidance=("prompt", "class_embed"), objectives=("sft_lora", "diffusion_dpo"),
        quality=("fid",), alignment=("clip_t",), personalization=("clip_i", "compatibility"),
        systems=("LVA-COG", "PerFusion"),
    ),
    Task(
        id="image.product.profiles", context="profile", instruction=("text", "image", "mask"),
        output="product image per group", engine="image", user_model=("embedding",),
        guidance=("extra_channels", "class_embed"), objectives=("sft_lora", "diffusion_dpo"),
        quality=("fid",), alignment=("clip_t",), personalization=("ctr",), systems=("CG4CTR",),
        note="group embedding; self-cycle: generate, reward, fine-tune",
    ),
    Task(
        id="image.subject", context="subjects", instruction=("text",), output="image",
        engine="image", user_model=("concept_tokens",), guidance=("prompt", "image_tokens"),
        objectives=("textual_inversion", "dreambooth_pp", "sft_lora"), quality=("fid", "kid"),
        alignment=("clip_t", "r_precision", "pref_score"),
        personalization=("clip_i", "dino_i", "lpips", "ssim"),
        systems=("Textual Inversion", "DreamBooth", "Custom Diffusion"),
    ),
    Task(
        id="image.face", context="face_body", instruction=("text",), output="portrait",
        engine="image", user_model=("embedding",), guidance=("image_tokens", "controlnet"),
        objectives=("tuning_free", "sft_lora"), quality=("fid",), alignment=("clip_t",),
        personalization=("face_sim", "clip_i", "ssim", "psnr"),
        systems=("PhotoMaker", "InstantBooth", "InstantID"),
        note="ID tokens via decoupled cross-attention; landmarks via ControlNet",
    ),
    Task(
        id="image.tryon", context="face_body", instruction=("image", "mask", "pose"),
        output="dressed person", engine="image", user_model=("embedding",),
        guidance=("extra_channels", "ref_kv", "controlnet", "cfg"),
        objectives=("sft_lora", "tuning_free"), quality=("fid", "kid", "is"), alignment=(),
        personalization=("ssim", "lpips", "psnr", "clip_i"),
        systems=("IDM-VTON", "OOTDiffusion", "OutfitAnyone"),
    ),
    Task(
        id="video.subject", context="subjects", instruction=("text",), output="clip",
        engine="video", user_model=("concept_tokens",), guidance=("prompt", "cond_tokens"),
        objectives=("sft_lora", "textual_inversion"),
        quality=("fvd", "fid", "temporal_consistency"), alignment=("clip_t",),
        personalization=("clip_i", "dino_i"), systems=("AnimateDiff", "AnimateLCM", "PIA"),
    ),
    Task(
        id="video.identity", context="face_body", instruction=("text",), output="clip",
        engine="video", user_model=("embedding",), guidance=("cond_tokens", "ref_kv"),
        objectives=("tuning_free", "textual_inversion", "sft_lora"),
        quality=("fvd", "fid", "temporal_consistency"), alignment=("clip_t",),
        personalization=("face_sim", "clip_i", "dino_i"),
        systems=("Magic-Me", "ID-Animator", "ConsisID"),
    ),
    Task(
        id="video.talking_head", context="face_body", instruction=("audio",),
        output="lip-synced clip", engine="video", user_model=("embedding",),
        guidance=("ref_kv", "cond_tokens"), objectives=("sft_lora", "tuning_free"),
        quality=("fid", "fvd"), alignment=("lmd", "lse_d", "lse_c"),
        personalization=("ssim", "psnr", "lpips", "face_sim"), systems=("DreamTalk", "EMO", "MEMO"),
    ),
    Task(
        id="video.pose", context="face_body", instruction=("pose",), output="clip", engine="video",
        user_model=("embedding",), guidance=("ref_kv", "extra_channels"),
        objectives=("sft_lora", "tuning_free"), quality=("fvd", "fid"), alignment=("akd", "mkr"),
        personalization=("ssim", "psnr", "lpips", "l1", "face_sim"),
        systems=("DisCo", "AnimateAnyone", "MagicAnimate"),
    ),
    Task(
        id="video.tryon", context="face_body", instruction=("video", "image", "mask"),
        output="clip", engine="video", user_model=("embedding",),
        guidance=("extra_channels", "ref_kv"), objectives=("sft_lora",),
        quality=("fvd", "fid", "kid"), alignment=(), personalization=("ssim", "lpips", "psnr"),
        systems=("ViViD", "VITON-DiT", "WildVidFit"),
    ),
    Task(
        id="3d.object", context="subjects", instruction=("image", "text", "camera"),
        output="points / mesh / multi-view", engine="geometry",
        user_model=("concept_tokens", "embedding"), guidance=("image_tokens", "cond_tokens"),
        objectives=("dreambooth_pp", "sft_lora"), quality=("fid", "is"), alignment=("clip_t",),
        personalization=(
            "chamfer", "volume_iou", "p2s", "normal_consistency", "psnr", "ssim", "lpips",
        ),
        systems=("MVDream", "DreamBooth3D", "Wonder3D"),
    ),
    Task(
        id="3d.face", context="face_body", instruction=("audio", "image"),
        output="face geometry or vertex animation", engine="geometry", user_model=("embedding",),
        guidance=("cond_tokens",), objectives=("sft_lora",), quality=("psnr", "ssim"),
        alignment=("lve",), personalization=("lve", "fdd", "psnr", "ssim", "lpips"),
        systems=("PoseGAN", "My3DGen", "DiffSpeaker"),
    ),
    Task(
        id="3d.pose", context="face_body", instruction=("image", "pose"),
        output="joints + vertices", engine="geometry", user_model=("embedding",),
        guidance=("cond_tokens",), objectives=("sft_lora",), quality=("mpjpe",),
        alignment=("mpjpe",), personalization=("mpjpe", "pa_mpjpe", "mpve", "psnr", "ssim"),
        systems=("FewShotMotionTransfer", "PGG", "3DHM", "DreamWaltz"),
    ),
    Task(
        id="3d.tryon", context="face_body", instruction=("image", "text"),
        output="clothed body mesh", engine="geometry", user_model=("embedding", "concept_tokens"),
        guidance=("cond_tokens", "image_tokens"), objectives=("sft_lora", "dreambooth_pp"),
        quality=("fid",), alignment=("clip_t",),
        personalization=("clip_i", "p2s", "normal_consistency", "volume_iou"),
        systems=("Pergamo", "DreamVTON"),
    ),
    Task(
        id="audio.face_to_speech", context="face_body", instruction=("text",), output="speech",
        engine="audio", user_model=("embedding",), guidance=("speaker_embed", "cond_tokens"),
        objectives=("sft_lora", "tuning_free"), quality=("stoi", "estoi", "pesq", "fad"),
        alignment=("stoi",), personalization=("embedding_distance",),
        systems=("VoiceMe", "FR-PSS", "Lip2Speech"),
    ),
    Task(
        id="audio.music", context="behaviors", instruction=("text",),
        output="symbolic music (or codec tokens)", engine="causal_lm",
        user_model=("embedding", "soft_prefix"), guidance=("in_context", "rag"),
        objectives=("sft_lora", "dpo"), quality=("fad", "prdc"), alignment=("clap",),
        personalization=("embedding_distance", "pattern_sim", "clap"),
        systems=("UMP", "UP-Transformer", "UIGAN"),
    ),
    Task(
        id="audio.text_to_audio", context="subjects", instruction=("text",), output="audio",
        engine="audio", user_model=("concept_tokens",), guidance=("prompt", "class_embed"),
        objectives=("textual_inversion", "dreambooth_pp", "sft_lora"), quality=("fad", "is"),
        alignment=("clap",), personalization=("embedding_distance", "clap", "fad"),
        systems=("DiffAVA", "TAS", "Plitsis et al."),
    ),
    Task(
        id="cross.robotics", context="behaviors", instruction=("goal", "text"),
        output="action sequence", engine="policy", user_model=("latent_z",),
        guidance=("cond_tokens", "rag"), objectives=("vpl", "sft_lora"),
        quality=("episode_length",), alignment=("success_rate",),
        personalization=("success_rate", "spl", "distance_to_goal"),
        systems=("VPL", "Promptable Behaviors", "Cui et al."),
    ),
    Task(
        id="cross.caption", context="documents", instruction=("image", "video"),
        output="caption / comment", engine="vlm", user_model=("soft_prefix", "retrieval"),
        guidance=("rag", "in_context"), objectives=("sft_lora", "prefix"),
        quality=("bleu", "meteor"), alignment=("cider",),
        personalization=("rouge", "meteor", "clip_t", "authorship_gap"),
        systems=("PV-LLM", "PVCG", "METER"),
    ),
    Task(
        id="cross.dialogue", context="subjects", instruction=("image", "text"),
        output="answer naming the subject", engine="vlm",
        user_model=("concept_tokens", "retrieval"), guidance=("image_tokens", "in_context", "rag"),
        objectives=("prefix", "sft_lora", "tuning_free"), quality=("bleu", "meteor"),
        alignment=("accuracy",), personalization=("concept_prf", "recall", "precision"),
        systems=("MyVLM", "Yo'LLaVA", "MC-LLaVA"),
    ),
)
# fmt: on

TASKS = MappingProxyType({task.id: task for task in _ROWS})
"""Every task by its id, in the survey's order."""
